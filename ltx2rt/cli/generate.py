"""``ltx2rt generate``: from options to a clip on disk."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ltx2rt import api, embedded
from ltx2rt.api.control_video import write_control_video
from ltx2rt.api.record import Record, read_record
from ltx2rt.api.run_state import saved_record, state_folder
from ltx2rt.cli.arguments import Command, command_of, effectless
from ltx2rt.cli.config_file import read_config, toml_of_record, values_of_record
from ltx2rt.cli.flag import add_flags
from ltx2rt.cli.flags import FLAGS
from ltx2rt.cli.plan_text import plan_text
from ltx2rt.cli.progress import Progress
from ltx2rt.errors import Cancelled, MediaError, OutOfMemory, OutOfSpace, StateError, UsageError, write_failure
from ltx2rt.graph.pipelines import PIPELINES
from ltx2rt.media.output_file import OutputFile
from ltx2rt.media.stills import write_png
from ltx2rt.media.video_writer import CONTAINERS
from ltx2rt.weights.sets.parts import TITLES

DEFAULT_OUTPUT = Path("output.mp4")
DEFAULT_SOUND_OUTPUT = Path("output.wav")

# Files that the command itself handles; a configuration cannot name another one.
_NOT_IN_CONFIG = ("config", "from_sidecar", "plan", "print_config", "resume")


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "generate",
        help="a prompt and images, videos or sound to a clip",
        description="Generate a clip. Messages go to stderr; the path of the written file goes to stdout.",
    )
    parser.add_argument("positional_prompt", nargs="?", metavar="PROMPT", help="the same as --prompt")
    add_flags(parser, FLAGS)
    parser.set_defaults(run=run_generate, parser=parser)


def run_generate(arguments: argparse.Namespace) -> int:
    """Exit code 0 when the clip has been written."""
    repeated = _merge_other_sources(arguments)
    command = command_of(arguments)
    output = _output_path(arguments, command)
    progress = Progress(quiet=bool(arguments.quiet))
    if arguments.print_config is None:
        for path in (output, arguments.report, arguments.preview, *command.output.files()):
            if path is not None:
                check_output_folder(path)
    if "checkpoint" not in command.files and "transformer" not in command.files:
        progress.message(embedded.notice(command.settings.get("prompt")))
    for flag in effectless(arguments):
        progress.message(f"{flag.names[0]} has no effect: {flag.why}")
    pipeline = api.load(**command.files, keep_loaded=False)  # there is no second call
    for line in taken_files(pipeline, command):
        progress.message(line)
    _check_outputs(arguments, command)
    if arguments.print_config:
        record = pipeline.record_for(**command.settings)
        sections = {"files": record.files, "settings": record.settings, "output": command.output.as_dict()}
        print(toml_of_record(sections, FLAGS), end="")
        return 0
    if arguments.plan:
        found, assumed = pipeline.plan(**command.settings, memory=arguments.memory)
        print(plan_text(found, assumed))
        return 0
    state = None if arguments.no_state else state_folder(output)
    _tell_of_state(progress, state, output, resume=bool(arguments.resume))
    try:
        clip = pipeline(
            **command.settings,
            observer=progress.observe,
            on_settings=progress.settings,
            on_preview=None if arguments.preview is None else _preview_writer(arguments.preview),
            state_folder=state,
            resume=bool(arguments.resume),
            repeated=repeated,
            memory=arguments.memory,
        )
        clip.save(output, command.output)
    except (KeyboardInterrupt, Cancelled, OutOfSpace, OutOfMemory):
        if state is not None and state.exists():
            progress.message(f"{output} is not written; the same command with --resume continues")
        raise
    if arguments.save_control:
        write_control_video(output.with_suffix(".control.mp4"), clip)
    progress.finish(clip.report)
    if arguments.report is not None:
        write_report(arguments.report, clip)
    print(output if clip.is_decoded else command.output.save_latents)
    return 0


def taken_files(pipeline: api.Pipeline, command: Command) -> list[str]:
    """What to say about the files that a run reads without their having been named."""
    has_text = command.settings.get("embedding") is not None or bool(command.settings.get("zero_text"))
    unread = ("text_encoder", "text_projection", "connectors") if has_text else ()
    return _taken_lines({name: path for name, path in pipeline.taken.items() if name not in unread})


def tell_taken(progress: Progress) -> Callable[[Mapping[str, Path]], None]:
    """Prints what is read without having been named: setting -> path."""

    def tell(taken: Mapping[str, Path]) -> None:
        for line in _taken_lines(taken):
            progress.message(line)

    return tell


def _taken_lines(taken: Mapping[str, Path]) -> list[str]:
    return [f"{TITLES[name]}: {path}" for name, path in taken.items()]


def _tell_of_state(progress: Progress, state: Path | None, output: Path, *, resume: bool) -> None:
    """What becomes of an interrupted run of the output, unless it is simply continued."""
    try:
        left = state is not None and saved_record(state) is not None
    except StateError:
        if resume:
            raise
        progress.message(f"starting over: an interrupted run of {output} is dropped; its state was damaged")
        return
    if resume and not left:
        progress.message(f"nothing to resume for {output}: starting at the beginning")
    if left and not resume:
        progress.message(f"starting over: an interrupted run of {output} is dropped; --resume would continue it")


def _merge_other_sources(arguments: argparse.Namespace) -> Record | None:
    """Add the options of a config file, a sidecar or an interrupted run to those of the command line, which win.

    Returns:
        The record of the sidecar, whose weights and inputs the run must have.
    """
    record = None
    if arguments.from_sidecar is not None:
        record, output = read_record(arguments.from_sidecar)
        verb = record.files.get("pipeline")
        if verb in ("upscale", "encode"):
            raise UsageError(f"{arguments.from_sidecar} was written by ltx2rt {verb}; repeat it with that command.")
        record.require_files(str(arguments.from_sidecar))
        sections = {"files": record.files, "settings": record.settings, "output": output}
        _merge(arguments, values_of_record(sections, FLAGS, str(arguments.from_sidecar)))
        if arguments.output_path is None and arguments.from_sidecar.suffix == ".json":
            arguments.output_path = arguments.from_sidecar.with_suffix("")
    if arguments.config is not None:
        _merge(arguments, read_config(arguments.config, [f for f in FLAGS if f.dest not in _NOT_IN_CONFIG]))
    if arguments.resume:
        outputs = [arguments.output_path] if arguments.output_path else [DEFAULT_OUTPUT, DEFAULT_SOUND_OUTPUT]
        saved = next(filter(None, (saved_record(state_folder(path)) for path in outputs)), None)
        if saved is not None:
            saved.require_files("the interrupted run")
            sections = {"files": saved.files, "settings": saved.settings}
            _merge(arguments, values_of_record(sections, FLAGS, "the interrupted run"))
    return record


def _merge(arguments: argparse.Namespace, others: Mapping[str, Any]) -> None:
    """Give every option that is still open the value that it has in ``others``."""
    for name, value in others.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)


def _check_outputs(arguments: argparse.Namespace, command: Command) -> None:
    """Refuse outputs that the run will not have, before it runs."""
    if command.settings.get("latents_only") and command.output.save_latents is None:
        raise UsageError("--skip-vae makes latents only; name their file with --save-latents.")
    if arguments.save_control and not command.settings.get("video_conditioning"):
        raise UsageError("--save-control needs a control video; give --video-conditioning FILE.")


def _output_path(arguments: argparse.Namespace, command: Command) -> Path:
    is_sound = command.pipeline in PIPELINES and PIPELINES[command.pipeline].output == "sound"
    output: Path | None = arguments.output_path
    if output is None:
        return DEFAULT_SOUND_OUTPUT if is_sound else DEFAULT_OUTPUT
    if output.is_dir():
        raise UsageError(f"the output {output} is a folder; name a file.")
    suffixes = (".wav",) if is_sound else (*CONTAINERS, ".wav")
    if output.suffix.lower() not in suffixes:
        raise UsageError(f"the output of {command.pipeline} must end in {', '.join(suffixes)}, got {output.name!r}.")
    return output


def check_output_folder(path: Path) -> None:
    """Fail before any computing when the output cannot be written."""
    folder = path.parent
    if path.is_dir():
        raise UsageError(f"the output {path} is a folder; name a file.")
    if not folder.is_dir():
        raise MediaError(f"the output folder {folder} does not exist; create it or choose another path.")
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise write_failure(path, error) from error


def _preview_writer(path: Path) -> Any:
    def write(preview: api.Preview) -> None:
        if preview.is_decodable:
            write_png(path, preview.picture())

    return write


def write_report(path: Path, clip: api.Clip) -> None:
    """Write settings and stage reports as JSON."""
    content = {"settings": dict(clip.settings), "stages": [stage.as_dict() for stage in clip.report]}
    with OutputFile(path) as file:
        file.file.write((json.dumps(content, indent=2) + "\n").encode("utf-8"))
