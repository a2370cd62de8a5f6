"""``ltx2rt encode``: a prompt to a text embedding file."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path
from typing import Any

from ltx2rt import api, embedded
from ltx2rt.api.output_files import check_files, embedding_files
from ltx2rt.cli.arguments import given_prompt
from ltx2rt.cli.flag import Flag, add_flags
from ltx2rt.cli.flags import named, weight_flags, weights_given
from ltx2rt.cli.generate import tell_taken, tell_unused_writer
from ltx2rt.cli.outputs import RULE, free_path, said
from ltx2rt.cli.plan_text import plan_text
from ltx2rt.cli.progress import Progress
from ltx2rt.errors import UsageError
from ltx2rt.graph.pipelines.decide import with_prompt_of_file
from ltx2rt.graph.settings.settings import Settings
from ltx2rt.graph.settings.weight_files import MODEL, TEXT
from ltx2rt.media.output_lock import held
from ltx2rt.paths import expanded

DEFAULT_OUTPUT = Path("embedding.safetensors")

FLAGS = (
    *named("--prompt", "--prompt-file"),
    Flag(
        ("--negative-prompt",),
        "what to avoid, stored beside the prompt; the default is in docs/options.md",
        "Request",
        "run",
        metavar="TEXT",
    ),
    Flag(
        ("--output-path", "--output", "-o"),
        "the file to write, .safetensors, or .npz for other programs",
        "Request",
        "run",
        kind=expanded,
        metavar="FILE",
        default=DEFAULT_OUTPUT,
    ),
    *weight_flags(MODEL, TEXT),
    *named(
        "--enhance-prompt",
        "--enhance-temperature",
        "--enhance-top-k",
        "--enhance-top-p",
        "--enhance-seed",
        "--enhance-max-tokens",
    ),
    *named("--memory", "--plan", "--overwrite", "--progress", "--quiet"),
)
ENHANCEMENT = {
    "temperature": "enhance_temperature",
    "top_k": "enhance_top_k",
    "top_p": "enhance_top_p",
    "seed": "enhance_seed",
    "max_new_tokens": "enhance_max_tokens",
}


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "encode",
        help="a prompt to a file that generate --embedding reads",
        description="Encode a prompt and a negative prompt once; generate --embedding FILE then needs no text encoder. "
        f"{RULE}",
    )
    parser.add_argument("positional_prompt", nargs="?", metavar="PROMPT", help="the same as --prompt")
    add_flags(parser, FLAGS)
    parser.set_defaults(run=run_encode)


def run_encode(arguments: argparse.Namespace) -> int:
    """Exit code 0 when the file has been written."""
    text = Settings.of({"prompt": given_prompt(arguments), "prompt_file": arguments.prompt_file})
    prompt = with_prompt_of_file(text).prompt
    if prompt is None:
        raise UsageError("--prompt is missing; say what to encode.")
    asked, overwrite = arguments.output_path or DEFAULT_OUTPUT, bool(arguments.overwrite)
    output = asked if overwrite else free_path(asked, ".json")
    progress = Progress(arguments.progress, quiet=bool(arguments.quiet))
    files = weights_given(arguments, MODEL, TEXT)
    if not arguments.plan:
        given_files = [path for path in files.values() if isinstance(path, Path)]
        check_files(embedding_files(asked), given_files, overwrite=True)
        if output != asked:
            progress.message(said(asked, output))
    if not {"checkpoint", "transformer"}.intersection(files):
        progress.message(embedded.notice(prompt))
    given = {name: getattr(arguments, dest) for name, dest in ENHANCEMENT.items()}
    given = {name: value for name, value in given.items() if value is not None}
    if given and not arguments.enhance_prompt:
        raise UsageError("--enhance-... options go with --enhance-prompt, which is missing; give it, too.")
    tell_unused_writer(progress, files, rewrites=bool(arguments.enhance_prompt))
    wanted: dict[str, Any] = {
        "negative_prompt": arguments.negative_prompt,
        "enhancement": given if arguments.enhance_prompt else None,
        "memory": arguments.memory,
        "on_taken": tell_taken(progress),
        **files,
    }
    if arguments.plan:
        print(plan_text(api.plan_encode(prompt, **wanted)))
        return 0
    with held(file.path for file in embedding_files(output)), closing(progress):
        embedding = api.encode(prompt, output=output, overwrite=overwrite, observer=progress.observe, **wanted)
    shown = {name: getattr(embedding, name) for name in ("generation", "num_tokens", "prompt", "negative_prompt")}
    progress.settings(shown)
    progress.written(output)
    print(output)
    return 0
