"""Runs prompt to clip at the real size of the model under memory budgets, and measures the process from outside.

    python benchmarks/real_scale.py FOLDER --manifests DIR --memory 6GB 16GB [--generation 2.3] [--steps 1] [--mid]
        [--cold] [--decoder conv diffusion] [--epilogue]

Makes (or reuses) synthetic weight files in FOLDER: the FP8 checkpoint, Gemma 3 12B in bf16 and the spatial upscaler,
53 GB together; of LTX-2.5 the parts it is published in, the transformer in rotated int8, Gemma 4 12B in bf16, 52 GB.
--mid makes 4 blocks and 6 Gemma layers of the real width, 13 GB. Runs `ltx2rt generate` once per budget (the distilled
pipeline, or with --steps so many unguided steps at full size), of LTX-2.5 once per budget and video decoder, samples
its resident memory 20 times a second, and writes for each a table (table-6GB.md), a picture (memory-6GB.png), and one
results.json. Outputs must be finite, and the same in every bit for all budgets.

--epilogue runs the round of DFR at full size alone (dfr_epilogue.py), 2176x3840, with one block of LTX-2.5 and one cell
of time, once per budget, of which the model sees three tiles in each phase; its files of weights take 6 GB.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import av
import numpy as np
import psutil

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "benchmarks")]

# After the folders of this checkout stand in the path.
import make_synthetic_checkpoint as synthetic  # noqa: E402
from memory_picture import Band, Sample, draw  # noqa: E402

from ltx2rt.errors import Ltx2rtError  # noqa: E402
from ltx2rt.memory.limits import parse_bytes  # noqa: E402
from ltx2rt.weights.safetensors import SafetensorsFile, write_safetensors  # noqa: E402

COMMAND = (sys.executable, "-m", "ltx2rt.cli")
INTERVAL_S = 0.05
PROMPT = "A lighthouse at dusk; waves crash below while a violin plays"
SEED = 10


class Published(NamedTuple):
    """The manifests of a generation, without their ending.

    Attributes:
        eight_bits: what the transformer is made in; None: as its manifest says.
        text_encoder: None: the Gemma 3 that has no manifest.
        audio_vae, decoders: files beside the checkpoint, the video VAEs by the decoder that they hold.
    """

    model: str
    upscaler: str
    eight_bits: synthetic.EightBits | None = None
    text_encoder: str | None = None
    audio_vae: str | None = None
    decoders: Mapping[str, str] = MappingProxyType({})


PUBLISHED = {
    "19b": Published("ltx-2-19b-distilled-fp8", "ltx-2-spatial-upscaler-x2-1.0"),
    "2.3": Published("ltx-2.3-22b-distilled-fp8", "ltx-2.3-spatial-upscaler-x2-1.0"),
    "2.5": Published(
        "ltx-2.5-22b-distilled-transformer-bf16",
        "ltx-2.5-latent-spatial-upscaler-x2-bf16-1.0",
        "int8",
        "gemma4-12b-with-proj-ltx-2.5-bf16",
        "ltx-2.5-audio-vae-bf16",
        {"conv": "ltx-2.5-video-vae-conv-bf16", "diffusion": "ltx-2.5-video-vae-bf16"},
    ),
}
WITHOUT_GUIDANCE = (
    *("--video-cfg-guidance-scale", "1", "--audio-cfg-guidance-scale", "1", "--stg-scale", "0"),
    *("--a2v-guidance-scale", "1", "--v2a-guidance-scale", "1"),
)
MID_LAYERS, MID_ENCODER_LAYERS = 4, 6
# Of the epilogue: blocks, pixels, latent frames, tiles of each phase, and the rank of the LoRA.
EPILOGUE_LAYERS, EPILOGUE_SIZE, EPILOGUE_CELLS, EPILOGUE_TILES, EPILOGUE_RANK = 1, (2176, 3840), 1, 3, 32
_READ_BYTES = 16 << 20


class Files(NamedTuple):
    """What a run reads.

    Attributes:
        text_encoder: a folder, or a file.
        audio_vae, decoders: None and empty where the checkpoint holds them; video VAEs by the decoder that they hold.
    """

    checkpoint: Path
    text_encoder: Path
    upscaler: Path
    audio_vae: Path | None = None
    decoders: Mapping[str, Path] = MappingProxyType({})

    def all(self) -> list[Path]:
        """The weight files."""
        encoder = self.text_encoder
        parts = [*sorted(encoder.glob("*.safetensors"))] if encoder.is_dir() else [encoder]
        audio = [] if self.audio_vae is None else [self.audio_vae]
        return [self.checkpoint, *parts, self.upscaler, *audio, *self.decoders.values()]

    def words(self, decoder: str | None) -> list[str]:
        """The options that name them, with the video VAE that holds this decoder."""
        words = ["--checkpoint-path", str(self.checkpoint), "--gemma-root", str(self.text_encoder)]
        words += ["--spatial-upsampler-path", str(self.upscaler)]
        if self.audio_vae is not None:
            words += ["--audio-vae-path", str(self.audio_vae)]
        if decoder is not None:
            words += ["--video-vae-path", str(self.decoders[decoder])]
        return words


@dataclass(frozen=True)
class StageRow:
    """One stage of a run: seconds, and bytes as predicted, as the process saw them and as seen from outside."""

    name: str
    begins: float
    ends: float
    seconds: float
    planned: int
    inside: int
    outside: int
    streamed: int
    read_seconds: float
    waited_seconds: float

    @property
    def ratio(self) -> float | None:
        """Predicted over measured."""
        measured = self.inside or self.outside
        return self.planned / measured if self.planned and measured else None


@dataclass(frozen=True)
class Result:
    """One run; ``decoder`` is of the video, None where the checkpoint decides."""

    memory: str | None
    seconds: float
    peak: int
    stages: list[StageRow]
    digests: dict[str, str]
    decoder: str | None = None

    @property
    def title(self) -> str:
        """What sets it apart from the others."""
        return _title(self.memory, self.decoder)


def _title(memory: str | None, decoder: str | None) -> str:
    return " ".join(word for word in (memory or "no budget", decoder) if word)


def prepare(folder: Path, manifests: Path, generation: str, mid: bool, decoders: Sequence[str] = ()) -> Files:
    """The weight files of a run, made where they are missing; ``decoders`` are those of LTX-2.5 that are wanted.

    Raises:
        Ltx2rtError: the disk lacks room, or a manifest cannot be read.
    """
    published = PUBLISHED[generation]
    mark = "-mid" if mid else ""
    layers, encoder_layers = (MID_LAYERS, MID_ENCODER_LAYERS) if mid else (None, None)
    folder.mkdir(parents=True, exist_ok=True)

    def made(manifest: str, ending: str = "", **options: Any) -> Path:
        name = manifest.replace("-bf16", "-int8") if options.get("eight_bits") == "int8" else manifest
        path = folder / f"{name}{ending}.safetensors"
        if not path.exists():
            _say(f"making {path}")
            synthetic.write_from_manifest(manifests / f"{manifest}.safetensors.json", path, **options)
        return path

    if published.text_encoder is not None:
        checkpoint = made(published.model, mark, layers=layers, eight_bits=published.eight_bits)
        text_encoder = made(published.text_encoder, mark, layers=encoder_layers)
    else:
        checkpoint = made(published.model, mark, layers=layers, encoder_layers=encoder_layers)
        text_encoder = folder / f"gemma-3-12b{mark}"
        if not (text_encoder / "config.json").exists():
            _say(f"making {text_encoder}")
            synthetic.write_gemma(text_encoder, encoder_layers)
    return Files(
        checkpoint,
        text_encoder,
        made(published.upscaler),
        None if published.audio_vae is None else made(published.audio_vae),
        {name: made(published.decoders[name]) for name in decoders},
    )


def prepare_epilogue(folder: Path, manifests: Path) -> dict[str, Path]:
    """The files that `dfr_epilogue.py` reads, by its options, made where they are missing.

    Raises:
        Ltx2rtError: the disk lacks room, or a manifest cannot be read.
    """
    published = PUBLISHED["2.5"]
    assert published.audio_vae is not None
    folder.mkdir(parents=True, exist_ok=True)
    layers = EPILOGUE_LAYERS
    transformer = folder / f"{published.model.replace('-bf16', '-int8')}-{layers}.safetensors"
    if not transformer.exists():
        source = manifests / f"{published.model}.safetensors.json"
        synthetic.write_from_manifest(source, transformer, layers=layers, eight_bits="int8")
    files = {"transformer": transformer}
    for option, manifest in (
        ("video-vae", published.decoders["conv"]),
        ("audio-vae", published.audio_vae),
        ("spatial-upscaler", published.upscaler),
    ):
        files[option] = folder / f"{manifest}.safetensors"
        if not files[option].exists():
            synthetic.write_from_manifest(manifests / f"{manifest}.safetensors.json", files[option])
    files["detailing-lora"] = folder / "detailing-lora.safetensors"
    if not files["detailing-lora"].exists():
        write_detailing_lora(transformer, files["detailing-lora"])
    return files


def write_detailing_lora(transformer: Path, path: Path) -> None:
    """A LoRA on the self-attention of every block of the file, random and small."""
    rng = np.random.default_rng(SEED)
    file, tensors = SafetensorsFile(transformer), {}
    for name, entry in file.tensors.items():
        if ".attn1.to_" in name and name.endswith(".weight") and len(entry.shape) == 2 and "connector" not in name:
            rows, columns = entry.shape
            module = f"diffusion_model.{name[name.index('transformer_blocks.') :].removesuffix('.weight')}"
            down = rng.standard_normal((EPILOGUE_RANK, columns)) / columns**0.5
            tensors[f"{module}.lora_A.weight"] = down.astype(np.float32)
            tensors[f"{module}.lora_B.weight"] = np.full((rows, EPILOGUE_RANK), 1e-3, np.float32)
    file.close()
    write_safetensors(path, tensors, {"model_version": "2.5.0", "reference_downscale_factor": "2"})


def run_epilogue(files: Mapping[str, Path], folder: Path, memory: str | None) -> Result:
    """The round of DFR at full size, measured.

    Raises:
        Ltx2rtError: the command failed.
    """
    name = f"epilogue-{memory or 'unlimited'}"
    report = folder / f"report-{name}.json"
    height, width = EPILOGUE_SIZE
    words = [sys.executable, str(ROOT / "benchmarks" / "dfr_epilogue.py"), "--report", str(report)]
    words += ["--size", str(height), str(width), "--cells", str(EPILOGUE_CELLS)]
    words += ["--tiles", str(EPILOGUE_TILES)]
    words += [word for option, path in files.items() for word in (f"--{option}", str(path))]
    words += [] if memory is None else ["--memory", memory]
    _say(f"running the epilogue with {_title(memory, None)}")
    samples, code = watch(words, folder)
    if code != 0:
        raise Ltx2rtError(f"the epilogue ended with exit code {code} after {samples[-1].seconds:.0f} s.")
    rows = stage_rows(json.loads(report.read_text())["stages"], samples)
    peak = max(sample.resident for sample in samples)
    (folder / f"table-{name}.md").write_text(table(rows))
    return Result(memory, samples[-1].seconds, peak, rows, {})


def forget(paths: Sequence[Path]) -> None:
    """Drop files from the system's page cache."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk_rate(path: Path, limit: int = 2 << 30) -> float:
    """Bytes per second of reading a file that is not cached, from its beginning, in large pieces."""
    forget([path])
    buffer, done, start = bytearray(_READ_BYTES), 0, time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while done < limit and (count := file.readinto(buffer)):
            done += count
    forget([path])
    return done / (time.perf_counter() - start)


def watch(words: Sequence[str], folder: Path, interval: float = INTERVAL_S) -> tuple[list[Sample], int]:
    """Run a command in ``folder`` and sample its resident memory until it ends; (samples, exit code).

    Not in the current folder: ``python -m`` would take ltx2rt from a checkout's root, whose sources hold no compiled
    kernels, in place of the installed package.
    """
    samples: list[Sample] = []
    start = time.perf_counter()
    with subprocess.Popen(words, cwd=folder) as process:
        try:
            while process.poll() is None:
                resident = resident_bytes(process.pid)
                now = time.perf_counter() - start
                if resident:
                    samples.append(Sample(now, resident))
                time.sleep(max(0.0, interval - (time.perf_counter() - start - now)))
        except KeyboardInterrupt:
            process.terminate()
            raise
    samples.append(Sample(time.perf_counter() - start, 0))
    return samples, process.returncode


def resident_bytes(pid: int) -> int:
    """Resident set of a process; 0 when it has ended."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def stage_rows(stages: Sequence[dict[str, Any]], samples: Sequence[Sample]) -> list[StageRow]:
    """The stages of a report on the clock of the samples: one after the other, the last one ends with the process."""
    rows: list[StageRow] = []
    ends = samples[-1].seconds
    for stage in reversed(stages):
        begins = max(0.0, ends - stage["seconds"])
        inside = [sample.resident for sample in samples if begins <= sample.seconds <= ends]
        rows.append(
            StageRow(
                name=stage["name"],
                begins=begins,
                ends=ends,
                seconds=stage["seconds"],
                planned=stage.get("planned_peak_bytes", 0),
                inside=stage.get("resident_peak_bytes") or 0,
                outside=max(inside, default=0),
                streamed=stage.get("streamed_bytes", 0),
                read_seconds=stage.get("read_seconds", 0.0),
                waited_seconds=stage.get("waited_seconds", 0.0),
            )
        )
        ends = begins
    return rows[::-1]


def table(rows: Sequence[StageRow]) -> str:
    """The stages as a Markdown table; sizes in GB (10^9 bytes)."""
    lines = [
        "| stage | seconds | predicted GB | measured GB | predicted/measured | from outside GB "
        "| streamed GB | read GB/s | waited s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
        rate = f"{row.streamed / row.read_seconds / 1e9:.2f}" if row.read_seconds else ""
        streamed, waited = (f"{row.streamed / 1e9:.2f}", f"{row.waited_seconds:.1f}") if row.streamed else ("", "")
        lines.append(
            f"| {row.name} | {row.seconds:.1f} | {_gigabytes(row.planned)} | {_gigabytes(row.inside)} | {ratio} "
            f"| {_gigabytes(row.outside)} | {streamed} | {rate} | {waited} |"
        )
    return "\n".join(lines) + "\n"


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.3f}" if count else ""


def digests(output: Path, latents: Path) -> dict[str, str]:
    """Digests of the final latents, and of the decoded frames and samples of a clip.

    Raises:
        Ltx2rtError: a latent is not finite.
    """
    found = {}
    file = SafetensorsFile(latents)
    for name in sorted(file.tensors):
        values = file.numpy(name)
        if not np.isfinite(values).all():
            raise Ltx2rtError(f"{latents}: {name} holds values that are not finite.")
        found[f"latent {name}"] = hashlib.sha256(values.tobytes()).hexdigest()
    file.close()
    for kind in ("video", "audio"):
        digest = hashlib.sha256()
        with av.open(str(output)) as container:
            stream = next(stream for stream in container.streams if stream.type == kind)
            for frame in container.decode(stream):
                digest.update(np.ascontiguousarray(frame.to_ndarray()).tobytes())  # type: ignore[union-attr]  # no subtitles
        found[kind] = digest.hexdigest()
    return found


def run(
    files: Files,
    folder: Path,
    memory: str | None,
    size: tuple[int, int, int],
    steps: int | None,
    decoder: str | None = None,
) -> Result:
    """Make one clip of (frames, height, width) and measure it; ``steps`` at full size, None: the distilled pipeline.

    Raises:
        Ltx2rtError: the command failed.
    """
    name = (memory or "unlimited") + (f"-{decoder}" if decoder else "")
    output, report = folder / f"clip-{name}.mp4", folder / f"report-{name}.json"
    latents = folder / f"latents-{name}.safetensors"
    frames, height, width = (str(n) for n in size)
    words = [*COMMAND, "generate", "--prompt", PROMPT, "--seed", str(SEED), "--num-frames", frames]
    words += ["--height", height, "--width", width, "--output-path", str(output), "--report", str(report)]
    words += ["--save-latents", str(latents), "--no-sidecar", "--no-state", *files.words(decoder)]
    if steps is not None:
        words += ["--pipeline", "one-stage", "--num-inference-steps", str(steps), *WITHOUT_GUIDANCE]
    if memory is not None:
        words += ["--memory", memory]
    _say(f"running with {_title(memory, decoder)}")
    samples, code = watch(words, folder)
    if code != 0:
        raise Ltx2rtError(f"ltx2rt generate ended with exit code {code} after {samples[-1].seconds:.0f} s.")
    rows = stage_rows(json.loads(report.read_text())["stages"], samples)
    peak = max(sample.resident for sample in samples)
    (folder / f"table-{name}.md").write_text(table(rows))
    budget = None if memory is None else parse_bytes(memory)
    title = f"{files.checkpoint.name}, {size[1]}x{size[2]}, {size[0]} frames: peak {peak / 1e9:.2f} GB"
    bands = [Band(row.name, row.begins, row.ends, row.planned) for row in rows]
    draw(folder / f"memory-{name}.png", title, samples, bands, budget)
    return Result(memory, samples[-1].seconds, peak, rows, digests(output, latents), decoder)


def verdicts(results: Sequence[Result]) -> list[tuple[str, bool]]:
    """What must hold, and whether it does: budgets, predictions of stages over 100 MB, equal bits."""
    found = []
    for result in results:
        name = result.title
        if result.memory is not None:
            kept = result.peak <= parse_bytes(result.memory)
            found.append((f"{name}: peak {result.peak / 1e9:.2f} GB is within the budget", kept))
        for row in result.stages:
            if row.ratio is not None and row.inside > 100e6:
                text = f"{name}: {row.name}: predicted / measured is {row.ratio:.3f}, in 0.98 to 1.05 or 10 MB above"
                close = row.ratio <= 1.05 or row.planned - row.inside < 10e6
                found.append((text, row.ratio >= 0.98 and close))
    for decoder in dict.fromkeys(result.decoder for result in results if result.digests):
        alike = [result.digests for result in results if result.decoder == decoder]
        if len(alike) > 1:
            which = f" of the {decoder} decoder" if decoder else ""
            text = f"latents, frames and sound have the same bits in all runs{which}"
            found.append((text, all(digests == alike[0] for digests in alike)))
    return found


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="for weight files and results")
    parser.add_argument("--manifests", type=Path, required=True, help="folder of the tensor manifests")
    parser.add_argument("--memory", nargs="+", default=[], metavar="SIZE", help="budgets, one run each; none: one run")
    parser.add_argument("--generation", choices=PUBLISHED, default="19b")
    parser.add_argument(
        "--decoder",
        nargs="+",
        choices=PUBLISHED["2.5"].decoders,
        help="video decoders of LTX-2.5; default: all",
    )
    parser.add_argument("--epilogue", action="store_true", help="the round of DFR at full size alone, of LTX-2.5")
    parser.add_argument("--mid", action="store_true", help="4 blocks and 6 Gemma layers of the real width")
    parser.add_argument("--size", nargs=3, type=int, default=(9, 256, 256), metavar=("FRAMES", "HEIGHT", "WIDTH"))
    parser.add_argument("--steps", type=int, help="unguided steps at full size in place of the distilled pipeline's")
    parser.add_argument("--cold", action="store_true", help="drop the weight files from the page cache before each run")
    arguments = parser.parse_args(words)
    arguments.folder = arguments.folder.resolve()
    if not Path("/proc/self/status").exists():
        print("error: memory is sampled from /proc, which this system does not have", file=sys.stderr)
        return 1
    try:
        budgets: list[str | None] = list(arguments.memory) or [None]
        if arguments.epilogue:
            needed = prepare_epilogue(arguments.folder, arguments.manifests)
            return _told([run_epilogue(needed, arguments.folder, memory) for memory in budgets], arguments.folder)
        known = PUBLISHED[arguments.generation].decoders
        if arguments.decoder and not known:
            parser.error(f"--decoder chooses among those of LTX-2.5, not of {arguments.generation}")
        decoders: Sequence[str] = arguments.decoder or list(known)
        files = prepare(arguments.folder, arguments.manifests, arguments.generation, arguments.mid, decoders)
        rate = disk_rate(files.checkpoint) if arguments.cold else 0.0
        results = []
        chosen: list[str | None] = list(decoders) or [None]
        for decoder, memory in itertools.product(chosen, budgets):
            if arguments.cold:
                forget(files.all())
            result = run(files, arguments.folder, memory, tuple(arguments.size), arguments.steps, decoder)
            results.append(result)
    except Ltx2rtError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return _told(results, arguments.folder, rate)


def _told(results: Sequence[Result], folder: Path, rate: float = 0.0) -> int:
    """Print and save results; 0 where all holds that must."""
    for result in results:
        print(f"\n{result.title}: {result.seconds:.0f} s, peak {result.peak / 1e9:.2f} GB\n")
        print(table(result.stages))
    if rate:
        print(f"disk, cold: {rate / 1e9:.2f} GB/s")
    checks = verdicts(results)
    for text, holds in checks:
        print(f"{'yes' if holds else 'NO '}  {text}")
    saved = {"disk_bytes_per_second": rate, "runs": [asdict(result) for result in results], "checks": checks}
    (folder / "results.json").write_text(json.dumps(saved, indent=2) + "\n")
    return 0 if all(holds for _, holds in checks) else 1


def _say(text: str) -> None:
    print(f"real_scale: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
