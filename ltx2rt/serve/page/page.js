// The page of the server: a form made from /v1/options, a plan, and the queue as /v1/events tells of it.

const $ = (id) => document.getElementById(id);
const IMPORTANT = ["prompt", "negative_prompt", "width", "height", "duration", "num_frames", "seed", "images"];
const OPEN_GROUP = "Request";
const RETRY_MS = [500, 1000, 2000, 5000];

let options = null;
let key = sessionStorage.getItem("ltx2rt-key") || "";
let planning = 0;
const cards = new Map(); // id -> {node, job, parts}

// Making elements: text is always text.
function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name in node && typeof value !== "string") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

async function ask(path, settings = {}) {
  const headers = { ...(settings.headers || {}), ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const answer = await fetch(path, { ...settings, headers });
  if (answer.status === 401) {
    $("key-form").hidden = false;
    $("key").focus();
  }
  return answer;
}

async function askJson(path, settings) {
  const answer = await ask(path, settings);
  const value = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const error = new Error(value.error?.message || `The server answers ${answer.status}.`);
    error.param = value.error?.param;
    error.plan = value.error?.plan;
    throw error;
  }
  return value;
}

const say = (text) => { $("said").textContent = text; };
const megabytes = (count) => (count >= 1e9 ? `${(count / 1e9).toFixed(2)} GB` : `${Math.round(count / 1e6)} MB`);
const seconds = (count) => (count >= 90 ? `${(count / 60).toFixed(1)} min` : `${count.toFixed(count < 10 ? 1 : 0)} s`);

// The form

function chosen() {
  const name = $("field-pipeline")?.value;
  return options.pipelines.find((pipeline) => pipeline.name === name) || options.pipelines[0];
}

function buildForm() {
  const kept = formValues();
  const before = chosen().name;
  const pipelines = make("select", { id: "field-pipeline", name: "pipeline", "aria-describedby": "help-pipeline" });
  for (const pipeline of options.pipelines) {
    pipelines.append(make("option", { value: pipeline.name, disabled: !!pipeline.reason, selected: pipeline.name === before },
      pipeline.reason ? `${pipeline.name} (files are missing)` : pipeline.name));
  }
  pipelines.addEventListener("change", () => { buildForm(); $("field-pipeline").focus(); planSoon(); });
  const current = options.pipelines.find((pipeline) => pipeline.name === before);
  const top = make("div", { class: "grid" },
    labelled("pipeline", "Pipeline", pipelines, `${current.summary}${current.size ? `; sizes: ${current.size}` : ""}`, true));
  const groups = new Map();
  for (const field of options.fields.filter((known) => current.settings.includes(known.name))) {
    const control = controlOf(field, current);
    if (IMPORTANT.includes(field.name)) continue;
    if (!groups.has(field.group)) groups.set(field.group, make("div", { class: "grid" }));
    groups.get(field.group).append(control);
  }
  for (const name of IMPORTANT.filter((known) => current.settings.includes(known))) {
    top.append(controlOf(options.fields.find((field) => field.name === name), current));
  }
  if (options.loras.length) {
    const list = make("select", { id: "field-loras", name: "loras", multiple: true, "aria-describedby": "help-loras" },
      ...options.loras.map((name) => make("option", { value: name }, name)));
    top.append(labelled("loras", "LoRAs", list, "used with strength 1", false));
  }
  const more = [...groups].map(([group, grid]) =>
    make("details", {}, make("summary", {}, group === OPEN_GROUP ? "More of the request" : group), grid));
  $("fields").replaceChildren(top, ...more);
  for (const [name, value] of Object.entries(kept)) {
    const control = $(`field-${name}`);
    if (control && control.type === "checkbox") control.checked = value === true;
    else if (control && control.type !== "file" && name !== "pipeline") control.value = value;
  }
}

function controlOf(field, pipeline) {
  const id = `field-${field.name}`;
  const base = { id, name: field.name, "aria-describedby": `help-${field.name}` };
  const usual = pipeline.defaults[field.name] ?? (["string", "number"].includes(typeof field.default) ? field.default : "");
  const hint = usual === "" ? {} : { placeholder: String(usual).slice(0, 60) };
  let control;
  if (field.form === "choice") {
    control = make("select", base, make("option", { value: "" }, `as usual${usual ? ` (${usual})` : ""}`),
      ...field.choices.map((choice) => make("option", { value: choice }, choice)));
  } else if (field.form === "switch") {
    // Three states in one list: what is usual may be on.
    control = make("select", base, make("option", { value: "" }, "as usual"),
      make("option", { value: "true" }, "yes"), make("option", { value: "false" }, "no"));
  } else if (["file", "images", "videos"].includes(field.form)) {
    control = make("input", { ...base, type: "file", multiple: field.form !== "file" });
    control.addEventListener("change", () => showFiles(field, control));
  } else if (field.name === "prompt" || field.name === "negative_prompt") {
    control = make("textarea", { ...base, ...(field.name === "prompt" ? { required: true } : hint) });
  } else {
    const numeric = field.form === "whole" || field.form === "number";
    const text = field.name === "seed" || !numeric;
    control = make("input", { ...base, ...hint, type: text ? "text" : "number", inputmode: numeric && !text ? "decimal" : null,
      step: text ? null : field.form === "whole" ? "1" : "any", min: text || field.low === null ? null : String(field.low),
      max: text || field.high === null ? null : String(field.high), autocomplete: "off" });
  }
  control.addEventListener("input", planSoon);
  const wide = field.form === "text" || ["file", "images", "videos"].includes(field.form);
  return labelled(field.name, field.label, control, field.help, wide);
}

function labelled(name, label, control, help, wide) {
  return make("div", { class: wide ? "wide" : "" }, make("label", { for: control.id }, label), control,
    make("p", { class: "help", id: `help-${name}` }, help), make("div", { id: `files-${name}` }));
}

// Each picture has its frame and strength, each video its strength.
function showFiles(field, control) {
  const rows = [...control.files].map((file, index) => {
    const parts = [make("span", {}, file.name)];
    const number = (what, value) => make("label", {}, `${what} of ${file.name} `,
      make("input", { type: "number", step: "any", value: String(value), "data-file": `${field.name}-${index}-${what}` }));
    if (field.form === "images") parts.push(number("frame", 0));
    if (field.form !== "file") parts.push(number("strength", 1));
    return make("div", { class: "quiet" }, ...parts.slice(field.form === "file" ? 0 : 1));
  });
  $(`files-${field.name}`).replaceChildren(...rows);
}

function formValues() {
  const values = {};
  for (const control of $("request").elements) {
    if (!control.name || control.type === "file") continue;
    if (control.multiple) values[control.name] = [...control.selectedOptions].map((option) => option.value);
    else if (control.value.trim() !== "") values[control.name] = control.value;
  }
  return values;
}

function formBody() {
  const body = new FormData();
  for (const [name, value] of Object.entries(formValues())) {
    if (Array.isArray(value)) { if (value.length) body.append(name, JSON.stringify(value)); } else body.append(name, value);
  }
  for (const control of $("request").querySelectorAll("input[type=file]")) {
    const form = options.fields.find((field) => field.name === control.name).form;
    if (form === "file") { if (control.files.length) body.append(control.name, control.files[0]); continue; }
    const entries = [...control.files].map((file, index) => {
      const part = `${control.name}-${index}`;
      body.append(part, file);
      const of = (what) => Number(document.querySelector(`[data-file="${part}-${what}"]`).value || 0);
      return form === "images" ? { image: `upload:${part}`, frame: of("frame"), strength: of("strength") }
        : { video: `upload:${part}`, strength: of("strength") };
    });
    if (entries.length) body.append(control.name, JSON.stringify(entries));
  }
  return body;
}

function showError(error) {
  for (const control of $("request").elements) control.removeAttribute("aria-invalid");
  $("form-error").textContent = error ? error.message : "";
  if (error?.plan) showPlan(error.plan, "It does not fit: what it would need");
  const control = error?.param && ($(`field-${error.param}`) || null);
  if (control) {
    control.setAttribute("aria-invalid", "true");
    control.closest("details")?.setAttribute("open", "");
    return control;
  }
  return null;
}

// The plan

function showPlan(plan, title) {
  const rows = plan.stages.map((stage) => make("tr", {}, make("th", { scope: "row" }, stage.name),
    make("td", {}, megabytes(stage.peak_bytes)), make("td", {}, seconds(stage.seconds)), make("td", {}, stage.how)));
  $("plan").replaceChildren(make("div", { class: "scroll" }, make("table", {},
    make("caption", {}, `${title}: ${megabytes(plan.needed_bytes || plan.peak_bytes)} of ${megabytes(plan.budget_bytes)}, about ${seconds(plan.seconds)}`),
    make("thead", {}, make("tr", {}, ...["stage", "memory", "time", "how"].map((name) => make("th", { scope: "col" }, name)))),
    make("tbody", {}, ...rows))));
}

async function planNow() {
  const mine = ++planning;
  try {
    const plan = await askJson("/v1/videos/plan", { method: "POST", body: formBody() });
    if (mine !== planning) return;
    showError(null);
    showPlan(plan.plan, `Plan of ${plan.pipeline}`);
    for (const text of plan.notices) $("plan").append(make("p", { class: "quiet" }, text));
  } catch (error) {
    if (mine === planning) showError(error);
  }
}

let planTimer = 0;
function planSoon() {
  clearTimeout(planTimer);
  const hasFiles = [...$("request").querySelectorAll("input[type=file]")].some((control) => control.files.length);
  if (hasFiles || !$("field-prompt")?.value.trim()) return;
  planTimer = setTimeout(planNow, 700);
}

async function start(event) {
  event.preventDefault();
  clearTimeout(planTimer);
  planning += 1;
  try {
    const job = await askJson("/v1/videos", { method: "POST", body: formBody() });
    showError(null);
    showJob(job);
    say("The clip is in the queue.");
  } catch (error) {
    (showError(error) || $("form-error")).focus?.();
  }
}

// The queue

const WORDS = { queued: "waiting", in_progress: "running", completed: "done", failed: "failed" };

function cardOf(job) {
  const id = job.id;
  const parts = {
    title: make("h3", { id: `title-${id}` }),
    state: make("p", { class: "quiet" }),
    bar: make("progress", { max: "100", "aria-labelledby": `title-${id}` }),
    preview: make("img", { class: "preview", alt: "", hidden: true }),
    result: make("div", {}),
    error: make("p", { class: "error" }),
    buttons: make("div", { class: "buttons" }),
  };
  const node = make("li", { "data-id": id }, ...Object.values(parts));
  const card = { node, parts, job, previews: 0, shown: "" };
  cards.set(id, card);
  $("queue").prepend(node);
  return card;
}

function stateText(job) {
  const facts = [WORDS[job.status], job.pipeline, job.size, job.seconds && `${job.seconds} s`, `seed ${job.seed}`];
  if (job.status === "queued" && job.queue_position) facts.push(`${job.queue_position} before it`);
  if (job.status === "in_progress" && job.stage) {
    facts.push(job.steps ? `${job.stage}, ${job.step} of ${job.steps}` : job.stage);
    if (job.seconds_left) facts.push(`${seconds(job.seconds_left)} left in it`);
  }
  if (job.status === "completed") facts.push(`${seconds(job.inference_time_s)}, ${Math.round(job.peak_memory_mb)} MB`);
  return facts.filter(Boolean).join(" · ");
}

function showJob(job) {
  const card = cards.get(job.id) || cardOf(job);
  const before = card.job.status;
  card.job = job;
  const { title, state, bar, preview, error, buttons } = card.parts;
  title.textContent = job.prompt || job.pipeline;
  state.textContent = [stateText(job), ...job.notices].join("\n");
  bar.hidden = job.status !== "in_progress";
  bar.value = job.progress;
  error.textContent = job.error ? job.error.message : "";
  if (job.previews > card.previews) {
    card.previews = job.previews;
    showMedia(preview, `/v1/videos/${job.id}/preview?n=${job.previews}`);
    preview.alt = `Preview of ${job.prompt || job.pipeline}`;
    preview.hidden = false;
  }
  if (job.status !== "in_progress") preview.hidden = true;
  if (card.shown !== job.status) {
    card.shown = job.status;
    buttons.replaceChildren(...buttonsOf(job));
    if (job.status === "completed") showResult(card);
    if (before !== job.status && job.status !== "queued") say(`${job.prompt || job.pipeline}: ${WORDS[job.status]}`);
  }
  $("empty").hidden = cards.size > 0;
}

function buttonsOf(job) {
  const button = (text, action) => { const made = make("button", { type: "button" }, text); made.addEventListener("click", action); return made; };
  const found = [];
  if (job.status === "completed" || job.status === "failed") {
    found.push(button("Again with another seed", () => again(job.id)));
    found.push(button("Delete", () => remove(job.id)));
  } else {
    found.push(button("Cancel", () => remove(job.id)));
  }
  return found;
}

async function again(id) {
  try {
    showJob(await askJson(`/v1/videos/${id}/remix`, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ seed: "random" }),
    }));
  } catch (error) { showError(error); }
}

async function remove(id) {
  const answer = await ask(`/v1/videos/${id}`, { method: "DELETE" });
  if (answer.ok || answer.status === 404) forget(id);
}

function forget(id) {
  cards.get(id)?.node.remove();
  cards.delete(id);
  $("empty").hidden = cards.size > 0;
}

// Media elements cannot send a key: with one, the file is fetched first.
async function showMedia(node, path) {
  if (!key) { node.src = path; return; }
  const answer = await ask(path);
  if (!answer.ok) return;
  if (node.src.startsWith("blob:")) URL.revokeObjectURL(node.src);
  node.src = URL.createObjectURL(await answer.blob());
}

function showResult(card) {
  const { job } = card;
  const path = `/v1/videos/${job.id}/content`;
  const isVideo = job.output === "video";
  const player = make(isVideo ? "video" : "audio", { controls: true, loop: isVideo, playsinline: isVideo ? "" : null,
    preload: "metadata", "aria-label": `Result: ${job.prompt || job.pipeline}` });
  showMedia(player, path);
  const link = make("a", { download: `${job.id}${isVideo ? ".mp4" : ".wav"}` }, "Download");
  if (key) link.addEventListener("click", () => { link.href = player.src; }); else link.href = path;
  const text = make("pre", { tabindex: "0" });
  const sidecar = make("details", {}, make("summary", {}, "What it was made from"), text);
  sidecar.addEventListener("toggle", async () => {
    if (sidecar.open && !text.textContent) text.textContent = JSON.stringify(await askJson(`${path}?variant=sidecar`), null, 2);
  });
  card.parts.result.replaceChildren(player, make("p", {}, link), sidecar);
}

// Server-sent events by fetch, which can send a key.
async function watch() {
  for (let failures = 0; ; failures += 1) {
    try {
      const answer = await ask("/v1/events");
      if (answer.status === 401) return;
      if (!answer.ok) throw new Error();
      failures = 0;
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let waiting = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        waiting += value;
        const blocks = waiting.split("\n\n");
        waiting = blocks.pop();
        blocks.forEach(readEvent);
      }
    } catch { /* the connection is gone: the server may be starting anew */ }
    $("server").textContent = "Not connected; trying again …";
    await new Promise((resume) => setTimeout(resume, RETRY_MS[Math.min(failures, RETRY_MS.length - 1)]));
    await showServer().catch(() => {});
  }
}

function readEvent(block) {
  const lines = Object.fromEntries(block.split("\n").filter((line) => !line.startsWith(":")).map((line) => {
    const colon = line.indexOf(":");
    return [line.slice(0, colon), line.slice(colon + 1).trim()];
  }));
  if (!lines.data) return;
  const value = JSON.parse(lines.data);
  if (lines.event === "job") showJob(value);
  if (lines.event === "deleted") forget(value.id);
}

async function showServer() {
  options = await askJson("/v1/options");
  $("server").textContent = `${options.model}, ${megabytes(options.limits.budget_bytes)} for a clip`;
  $("toy").hidden = !options.embedded;
  $("key-form").hidden = true;
}

async function begin() {
  try {
    await showServer();
    buildForm();
    watch();
  } catch (error) {
    $("server").textContent = error.message;
  }
}

$("request").addEventListener("submit", start);
$("plan-button").addEventListener("click", planNow);
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value.trim();
  sessionStorage.setItem("ltx2rt-key", key);
  begin();
});
begin();
