"""``ltx2rt generate``: from options to a clip on disk."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from ltx2rt import api, embedded
from ltx2rt.api.control_video import write_control_video
from ltx2rt.api.record import Record, read_record
from ltx2rt.api.run_state import require_state_folder, saved_notes, saved_record, state_folder
from ltx2rt.cli.arguments import Command, command_of, effectless
from ltx2rt.cli.config_file import read_config, toml_of_record, values_of_record
from ltx2rt.cli.flag import add_flags
from ltx2rt.cli.flags import FLAGS
from ltx2rt.cli.machines import run_with_hosts, shares_of
from ltx2rt.cli.outputs import RULE, Outputs, asks_for_sound, free_outputs, names_up_to_free
from ltx2rt.cli.plan_text import plan_text
from ltx2rt.cli.progress import Progress
from ltx2rt.cli.team import assist, assists, joined_team, terms_of
from ltx2rt.errors import Cancelled, MachineLost, OutOfMemory, OutOfSpace, StateError, UsageError
from ltx2rt.graph.pipelines import PIPELINES
from ltx2rt.graph.pipelines.open_inputs import input_files
from ltx2rt.graph.settings.kinds import RANDOM_SEED
from ltx2rt.graph.settings.setting import stored_values
from ltx2rt.graph.settings.settings import Settings
from ltx2rt.graph.settings.weight_files import WeightFiles
from ltx2rt.media.clip_reader import has_sound
from ltx2rt.media.exr import exr_folder, is_exr
from ltx2rt.media.output_file import OutputFile
from ltx2rt.media.output_lock import held
from ltx2rt.media.stills import write_png
from ltx2rt.spelling import spelled
from ltx2rt.team.team import Team
from ltx2rt.weights.sets.parts import TITLES

DEFAULT_OUTPUT = Path("output.mp4")
DEFAULT_SOUND_OUTPUT = Path("output.wav")

# Files that the command itself handles; a configuration cannot name another one.
_NOT_IN_CONFIG = ("config", "from_sidecar", "hosts", "plan", "print_config", "resume")


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "generate",
        help="a prompt and images, videos or sound to a clip",
        description=f"Generate a clip. Messages go to stderr; the path of the written file goes to stdout. {RULE}",
    )
    parser.add_argument("positional_prompt", nargs="?", metavar="PROMPT", help="the same as --prompt")
    add_flags(parser, FLAGS)
    parser.set_defaults(run=run_generate, parser=parser)


def run_generate(arguments: argparse.Namespace) -> int:
    """Exit code 0 when the clip has been written."""
    if arguments.hosts is not None:
        if arguments.plan or arguments.print_config:
            raise UsageError("--hosts makes a clip; ltx2rt plan --hosts plans one, --print-config needs no hosts.")
        return run_with_hosts(arguments)
    repeated = merge_other_sources(arguments)
    shares_of(arguments)
    progress = Progress(arguments.progress, quiet=bool(arguments.quiet))
    makes_clip = not (arguments.print_config or arguments.plan)
    if makes_clip and assists():
        assist(arguments, progress, lambda sections: _continue(arguments, sections))
        return 0
    command = command_of(arguments)
    outputs, overwrite = _outputs(arguments, command), bool(arguments.overwrite)
    if makes_clip:
        # Without a name the clip makes room for the record that is repeated.
        repeats = arguments.unnamed and not overwrite
        inputs = _inputs(arguments, command)
        outputs.check([p for p in inputs if not (repeats and p == arguments.from_sidecar)], overwrite=True)
        if not overwrite:
            outputs, renamed = free_outputs(outputs, avoid_held=arguments.unnamed)
            for line in renamed:
                progress.message(line)
    if "checkpoint" not in command.files and "transformer" not in command.files:
        progress.message(embedded.notice(command.settings.get("prompt")))
    for flag in effectless(arguments):
        progress.message(f"{flag.names[0]} has no effect: {flag.why}")
    tell_unused_writer(progress, command.files, rewrites=bool(command.settings.get("enhance_prompt")))
    pipeline = api.load(**command.files, keep_loaded=False)  # there is no second call
    for line in taken_files(pipeline, command):
        progress.message(line)
    _check_control(arguments, command)
    if arguments.preview_decoder is not None and outputs.preview is None:
        raise UsageError("--preview-decoder goes with --preview, which is missing; name the picture to write.")
    if arguments.print_config:
        record = pipeline.record_for(**command.settings)
        sections = {"files": record.files, "settings": record.settings, "output": command.output.as_dict()}
        print(toml_of_record(sections, FLAGS), end="")
        return 0
    if arguments.plan:
        found, assumed = pipeline.plan(
            **command.settings, memory=arguments.memory, preview_decoder=arguments.preview_decoder
        )
        print(plan_text(found, assumed))
        return 0
    progress.preview = outputs.preview
    with outputs.held(), held(filter(None, [arguments.state_folder])), closing(progress):
        outputs.check([*_inputs(arguments, command), *pipeline.weights], overwrite=overwrite)
        with joined_team(arguments, progress) as team:
            _generate(arguments, command, pipeline, outputs, progress, repeated, team)
    written = outputs.clip if outputs.decoded else outputs.options.save_latents
    assert written is not None
    if outputs.hdr_space is not None and outputs.decoded:
        progress.message(f"EXR frames: {exr_folder(outputs.clip, outputs.hdr_space)}")
    progress.written(written)
    print(written)
    return 0


def _generate(
    arguments: argparse.Namespace,
    command: Command,
    pipeline: api.Pipeline,
    outputs: Outputs,
    progress: Progress,
    repeated: Record | None,
    team: Team | None,
) -> None:
    """Run the pipeline and write what it makes."""
    output, resume = outputs.clip, bool(arguments.resume)
    state = None if arguments.no_state else arguments.state_folder or state_folder(outputs.state_of)
    _tell_of_state(progress, state, output, resume=resume)
    try:
        clip = pipeline(
            **command.settings,
            observer=progress.observe,
            on_settings=progress.settings,
            on_preview=None if outputs.preview is None else _preview_writer(outputs.preview),
            preview_decoder=arguments.preview_decoder,
            state_folder=state,
            resume=resume,
            noted={"output": outputs.options.as_dict(), "run": _noted(arguments, output)},
            repeated=repeated,
            memory=arguments.memory,
            team=team,
        )
        clip.save(output, outputs.options, overwrite=bool(arguments.overwrite))
    except (KeyboardInterrupt, Cancelled, OutOfSpace, OutOfMemory, MachineLost):
        if state is not None and state.exists():
            progress.message(f"{output} is not written; the same command with --resume continues")
        raise
    if outputs.save_control:
        write_control_video(outputs.control, clip)
    progress.finish(clip.report)
    if outputs.report is not None:
        write_report(outputs.report, clip)


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


def tell_unused_writer(progress: Progress, files: Mapping[str, Any], *, rewrites: bool) -> None:
    """Say so where a language model was given for rewriting prompts, and none is rewritten."""
    if "prompt_enhancer" in files and not rewrites:
        progress.message(f"{spelled('prompt_enhancer')} has no effect without {spelled('enhance_prompt')}")


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


def merge_other_sources(arguments: argparse.Namespace) -> Record | None:
    """Add the options of a config file, a sidecar or an interrupted run to those of the command line, which win.

    ``arguments.unnamed`` says then whether nobody gave the clip's name, ``arguments.interrupted`` is the clip of the
    run that goes on, ``arguments.own`` the files that it may have left, ``arguments.continued`` its files and settings,
    and ``arguments.terms`` what was asked for, by the command line and its files.

    Returns:
        The record of the sidecar, whose weights and inputs the run must have.
    """
    record = None
    arguments.unnamed, arguments.interrupted, arguments.own = False, None, frozenset()
    arguments.continued = None
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
            arguments.unnamed = True
    if arguments.config is not None:
        _merge(arguments, read_config(arguments.config, [f for f in FLAGS if f.dest not in _NOT_IN_CONFIG]))
    if arguments.state_folder is not None:
        if arguments.no_state:
            raise UsageError("--state-folder and --no-state contradict each other; give one of them.")
        require_state_folder(arguments.state_folder)
    arguments.terms = terms_of(arguments)
    if arguments.resume:
        _merge_interrupted(arguments)
    return record


def _merge_interrupted(arguments: argparse.Namespace) -> None:
    """Add the options of the interrupted run, if there is one."""
    state = _interrupted_state(arguments)
    saved = None if state is None else saved_record(state)
    if state is None or saved is None:
        return
    saved.require_files("the interrupted run")
    noted = {"output": {}, "run": {}, **saved_notes(state)}
    arguments.continued = {"files": saved.files, "settings": saved.settings}
    _continue(arguments, {**arguments.continued, **noted})
    output = arguments.output_path
    if output is None:
        return
    arguments.interrupted = output
    arguments.unnamed = False
    of_run = noted["run"]
    arguments.own = frozenset(Path(of_run[name]) for name in ("preview",) if name in of_run)
    if of_run.get("save_control"):
        arguments.own |= {output.absolute().with_suffix(".control.mp4")}


def _continue(arguments: argparse.Namespace, sections: Mapping[str, Any]) -> None:
    """Add the options of an interrupted run, on this machine or on the one that leads."""
    if arguments.seed == RANDOM_SEED:
        arguments.seed = None  # it has been drawn
    _merge(arguments, values_of_record(sections, FLAGS, "the interrupted run"))


def _interrupted_state(arguments: argparse.Namespace) -> Path | None:
    """The state that ``--resume`` continues. Where it lies beside its clip, that names the clip."""
    if arguments.state_folder is not None:
        return Path(arguments.state_folder)
    names = [arguments.output_path]
    if arguments.output_path is None or arguments.unnamed:
        usual = [arguments.output_path] if arguments.output_path else [DEFAULT_OUTPUT, DEFAULT_SOUND_OUTPUT]
        names = [path for name in usual for path in names_up_to_free(name)]
    output = next((path for path in names if saved_record(state_folder(path)) is not None), None)
    if output is None:
        return None
    arguments.output_path = output
    return state_folder(output)


def _noted(arguments: argparse.Namespace, output: Path) -> dict[str, Any]:
    """The options of the command itself with which an interrupted run goes on, as JSON values."""
    names = ("memory", "overwrite", "preview", "preview_decoder", "report", "save_control")
    given = {name: getattr(arguments, name) for name in names}
    if arguments.state_folder is not None:  # which does not say the name of the clip
        given["output_path"] = output
    return {
        name: str(value.absolute()) if isinstance(value, Path) else value
        for name, value in given.items()
        if value is not None
    }


def _merge(arguments: argparse.Namespace, others: Mapping[str, Any]) -> None:
    """Give every option that is still open the value that it has in ``others``."""
    for name, value in others.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)


def _outputs(arguments: argparse.Namespace, command: Command) -> Outputs:
    """What the command writes, under the usual names where it names none.

    Raises:
        UsageError: something that such a run does not have.
    """
    is_sound = command.pipeline in PIPELINES and PIPELINES[command.pipeline].output == "sound"
    output: Path | None = arguments.output_path
    if output is None:
        output = DEFAULT_SOUND_OUTPUT if is_sound else DEFAULT_OUTPUT
        arguments.unnamed = True
    return Outputs(
        output,
        command.output,
        pictures=not is_sound,
        sound=not asks_for_sound(output, command.output) or _has_sound(command),
        decoded=not command.settings.get("latents_only"),
        hdr_space=Settings.of(command.settings).hdr_space,
        report=arguments.report,
        preview=arguments.preview,
        save_control=bool(arguments.save_control),
        own=arguments.own,
        interrupted=arguments.interrupted,
    )


def _has_sound(command: Command) -> bool:
    """Whether the clip will have sound: some pipelines make none, and a silent one whose sound is kept stays silent."""
    if command.pipeline in PIPELINES and PIPELINES[command.pipeline].silent:
        return False
    settings = Settings.of(command.settings)
    keeps, path = settings.keep_audio and settings.kept_from == "source", settings.video_path
    return not keeps or path is None or (not is_exr(path) and has_sound(path))


def _inputs(arguments: argparse.Namespace, command: Command) -> list[Path]:
    """Everything that the command names to be read."""
    settings = Settings.of(command.settings)
    given = {name: value for name, value in command.files.items() if name != "pipeline"}
    named = WeightFiles(**stored_values(WeightFiles, given))
    own = (
        arguments.config,
        arguments.from_sidecar,
        arguments.preview_decoder,
        None if settings.prompt_file is None else settings.prompt_file.path,
        named.tokenizer,
    )
    return [*(path for path in own if path is not None), *input_files(settings), *named.paths]


def _check_control(arguments: argparse.Namespace, command: Command) -> None:
    if arguments.save_control and not command.settings.get("video_conditioning"):
        raise UsageError("--save-control needs a control video; give --video-conditioning FILE.")


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
