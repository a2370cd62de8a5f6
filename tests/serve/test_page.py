"""The page in a real browser: the form is filled with the keyboard, a clip is planned, started, watched and played."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from real_server import RealServer

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NEEDED = "needs Chromium and playwright: apt-get install chromium && pip install playwright"
sync_api = pytest.importorskip("playwright.sync_api", reason=NEEDED)
EXECUTABLE = next((found for name in BROWSERS if (found := shutil.which(name))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(EXECUTABLE is None, reason=NEEDED)]
# What every control needs for people who do not see it: a name, and no name twice.
UNNAMED = """() => [...document.querySelectorAll('input:not([type=hidden]), select, textarea, button, progress, video')]
  .filter((node) => node.offsetParent !== null)
  .filter((node) => !(node.labels?.length || node.getAttribute('aria-label') || node.getAttribute('aria-labelledby')
    || node.textContent.trim()))
  .map((node) => node.outerHTML)"""
SMALL_CONTROLS = """() => [...document.querySelectorAll('button, select, input:not([type=checkbox])')]
  .filter((node) => node.offsetParent !== null && node.offsetHeight < 24).length"""
TWICE = """() => { const ids = [...document.querySelectorAll('[id]')].map((node) => node.id);
  return ids.filter((id, index) => ids.indexOf(id) !== index); }"""
PLAYED = """async (video) => { video.muted = true; await video.play();
  await new Promise((done) => setTimeout(done, 400));
  return {time: video.currentTime, width: video.videoWidth, duration: video.duration}; }"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=EXECUTABLE, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module", params=["open", "with a key"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("page")
    (folder / "keys").write_text("a-key\n")
    words = [] if request.param == "open" else ["--api-key-file", str(folder / "keys")]
    running = RealServer(folder / "data", words)
    running.key = "a-key" if words else ""  # type: ignore[attr-defined]  # for this test alone
    yield running
    running.stop()


@pytest.fixture
def page(chromium: Any, server: Any) -> Iterator[Any]:
    made = chromium.new_page(viewport={"width": 1280, "height": 900})
    errors: list[str] = []
    made.on("pageerror", lambda error: errors.append(str(error)))
    # Nothing from elsewhere: with the network cut off the page is the same.
    made.route("**/*", lambda route: route.continue_() if "127.0.0.1" in route.request.url else route.abort())
    made.goto(f"http://127.0.0.1:{server.port}/")
    if server.key:
        made.wait_for_selector("#key-form:not([hidden])")
        made.fill("#key", server.key)
        made.keyboard.press("Enter")
    made.wait_for_selector("#field-prompt")
    yield made
    assert errors == []
    made.close()


def test_a_clip_from_the_form_to_the_player(page: Any, tmp_path: Path) -> None:
    page.focus("#field-prompt")
    page.keyboard.type("a red circle moves left")
    for name, value in (("width", "256"), ("height", "256"), ("num_frames", "25"), ("seed", "3")):
        page.focus(f"#field-{name}")
        page.keyboard.type(value)
    page.wait_for_selector("#plan table")
    assert "Plan of distilled" in page.inner_text("#plan caption")
    assert page.evaluate(UNNAMED) == []
    assert page.evaluate(TWICE) == []
    page.focus("button.primary")
    page.keyboard.press("Enter")
    page.wait_for_selector("#queue progress:not([hidden])")
    page.wait_for_function("() => Number(document.querySelector('#queue progress').value) > 0", timeout=120000)
    assert " of 8" in page.wait_for_selector("#queue p:has-text('denoise')").inner_text()
    page.wait_for_selector("#queue img.preview:not([hidden])", timeout=120000)
    video = page.wait_for_selector("#queue video", timeout=120000)
    page.wait_for_function("() => document.querySelector('#queue video').readyState > 1")
    played = video.evaluate(PLAYED)
    assert (played["width"], round(played["duration"], 1)) == (256, 1.0)
    assert played["time"] > 0
    page.click("#queue summary")
    page.wait_for_function("() => document.querySelector('#queue pre').textContent.includes('ltx2rt-sidecar')")
    page.click("text=Again with another seed")
    page.wait_for_function("() => document.querySelectorAll('#queue > li').length === 2")
    page.wait_for_function("() => document.querySelectorAll('#queue video').length === 2", timeout=120000)
    seeds = [
        text.split("seed ")[1].split(" ")[0] for text in page.locator("#queue p:has-text('seed')").all_inner_texts()
    ]
    assert seeds[1] == "3" != seeds[0]
    page.locator("text=Delete").first.click()
    page.wait_for_function("() => document.querySelectorAll('#queue > li').length === 1")
    page.reload()
    page.wait_for_selector("#queue video")


def test_what_is_wrong_is_shown_at_its_field(page: Any) -> None:
    page.fill("#field-prompt", "a red circle")
    page.fill("#field-num_frames", "10")
    page.click("text=Start")
    page.wait_for_selector("#field-num_frames[aria-invalid=true]")
    assert "8*k + 1" in page.inner_text("#form-error")
    assert page.evaluate("() => document.activeElement.id") == "field-num_frames"


def test_pipelines_have_their_own_fields(page: Any) -> None:
    assert page.query_selector("#field-video_cfg_guidance_scale") is None
    page.select_option("#field-pipeline", "one-stage")
    page.fill("#field-prompt", "a red circle")
    assert page.get_attribute("#field-video_cfg_guidance_scale", "placeholder") == "3"
    page.select_option("#field-pipeline", "retake")
    assert page.query_selector("#field-video_path") is not None
    assert page.query_selector("#field-width") is None
    assert page.input_value("#field-prompt") == "a red circle"


def test_it_fits_a_phone(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    for details in page.query_selector_all("details"):
        details.evaluate("(node) => { node.open = true; }")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    assert page.evaluate(SMALL_CONTROLS) == 0
