"""``ltx2rt serve``: the videos API over HTTP, with a queue and a page."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ltx2rt import embedded
from ltx2rt.cli.flag import Flag, add_flags
from ltx2rt.cli.flags import FLAGS as GENERATE_FLAGS
from ltx2rt.cli.flags import named
from ltx2rt.errors import UsageError
from ltx2rt.graph.settings.setting import plain_values, stored_values
from ltx2rt.graph.settings.weight_files import WeightFiles
from ltx2rt.memory.limits import parse_bytes
from ltx2rt.paths import expanded, read_text

_NEEDED = ("starlette", "uvicorn", "python_multipart")
_DAY = 86400.0
_WEIGHTS = tuple(flag for flag in GENERATE_FLAGS if flag.target == "files" and flag.said is not None)

FLAGS = (
    Flag(("--host",), "address to listen on; others than 127.0.0.1 need a key", "Server", "run", default="127.0.0.1"),
    Flag(("--port",), "port to listen on; 0: a free one", "Server", "run", kind=int, metavar="N", default=8000),
    Flag(
        ("--data-folder",),
        "folder of the jobs and their results",
        "Server",
        "run",
        kind=expanded,
        metavar="DIR",
        default="ltx2rt/serve in the user's data folder",
    ),
    Flag(
        ("--model-name",), "name of the model for clients", "Server", "run", metavar="NAME", default="that of its file"
    ),
    Flag(
        ("--api-key-file",),
        "file with keys, one a line; a request needs one of them",
        "Access",
        "run",
        kind=expanded,
        metavar="FILE",
    ),
    Flag(
        ("--cors-origin",),
        "let pages of this site use the API, http://localhost:3000",
        "Access",
        "run",
        metavar="ORIGIN",
        repeat=True,
    ),
    Flag(
        ("--allow-folder",),
        "let requests name files below this folder",
        "Access",
        "run",
        kind=expanded,
        metavar="DIR",
        repeat=True,
    ),
    Flag(("--max-jobs",), "jobs that may wait", "Limits", "run", kind=int, metavar="N", default=100),
    Flag(("--max-upload",), "largest request", "Limits", "run", metavar="SIZE", default="256MB"),
    Flag(("--max-age",), "remove finished jobs after so many days", "Limits", "run", kind=float, metavar="DAYS"),
    Flag(("--max-results",), "remove the oldest finished jobs above this size", "Limits", "run", metavar="SIZE"),
    Flag(
        ("--idle",),
        "free the weights after so many seconds without a job; 0: never",
        "Limits",
        "run",
        kind=float,
        metavar="SECONDS",
        default=900,
    ),
    Flag(
        ("--memory",),
        "what the server and all of its processes may take, 12GB or 900MB",
        "Limits",
        "run",
        metavar="SIZE",
        default="80 % of what is free",
    ),
    *_WEIGHTS,
    Flag(
        ("--named-lora",),
        "LoRA that requests may ask for by this name",
        "Weights",
        "run",
        metavar=("NAME", "PATH"),
        nargs=2,
        repeat=True,
    ),
    *named("--preview-decoder"),
)


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "serve",
        help="a server with OpenAI's videos API, a queue and a page",
        description="Serve POST /v1/videos and what belongs to it, and a page at /; see docs/serve.md. Needs "
        "pip install 'ltx2rt[serve]'.",
    )
    add_flags(parser, FLAGS)
    parser.set_defaults(run=run_serve)


def run_serve(arguments: argparse.Namespace) -> int:
    """Exit code 0 when the server has ended after SIGTERM or Ctrl-C."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"ltx2rt serve needs {', '.join(missing)}; run pip install 'ltx2rt[serve]'.")
    from ltx2rt.serve.job_queue import Limits
    from ltx2rt.serve.server import ServerOptions, run_server

    files = _weights(arguments)
    limits = Limits(
        jobs=_positive("--max-jobs", arguments.max_jobs, 100),
        upload=parse_bytes(arguments.max_upload or "256MB"),
        age=None if arguments.max_age is None else _positive("--max-age", arguments.max_age, 0) * _DAY,
        results=None if arguments.max_results is None else parse_bytes(arguments.max_results),
        idle=900.0 if arguments.idle is None else arguments.idle or None,
    )
    options = ServerOptions(
        host=arguments.host or "127.0.0.1",
        port=8000 if arguments.port is None else arguments.port,
        folder=(arguments.data_folder or _usual_folder()).absolute(),
        files=files,
        loras=_named_loras(arguments.named_lora or ()),
        keys=() if arguments.api_key_file is None else _keys(arguments.api_key_file),
        origins=tuple(arguments.cors_origin or ()),
        folders=tuple(_existing_folder(path) for path in arguments.allow_folder or ()),
        memory=None if arguments.memory is None else parse_bytes(arguments.memory),
        model=arguments.model_name,
        preview_decoder=arguments.preview_decoder,
        limits=limits,
    )
    if "checkpoint" not in files and "transformer" not in files:
        _say(embedded.notice(None))
    with contextlib.suppress(KeyboardInterrupt):  # before it was ready
        run_server(options, _say)
    return 0


def _say(text: str) -> None:
    print(f"ltx2rt: {text}", file=sys.stderr, flush=True)


def _weights(arguments: argparse.Namespace) -> dict[str, Any]:
    """The weight options that were given, checked, as JSON values."""
    given = {}
    for flag in _WEIGHTS:
        value = getattr(arguments, flag.dest)
        if value is None:
            continue
        assert flag.said is not None
        if flag.said.kind.words is not None:
            try:
                value = flag.said.kind.rows(value if flag.repeat else [value])
            except ValueError as error:
                raise UsageError(f"{flag.names[0]} {error}.") from None
        given[flag.name] = value
    plain = plain_values(WeightFiles(**stored_values(WeightFiles, given)))
    return {name: value for name, value in plain.items() if name in given}


def _named_loras(rows: Any) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for name, path in rows:
        if name in found:
            raise UsageError(f"--named-lora has two LoRAs of the name {name}; give each its own.")
        found[name] = str(expanded(path).absolute())
        if not os.path.exists(found[name]):
            raise UsageError(f"--named-lora {name}: {path} does not exist; check the path.")
    return found


def _keys(path: Path) -> tuple[str, ...]:
    try:
        keys = tuple(line.strip() for line in read_text(path).splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--api-key-file: {path} cannot be read ({error}); check the path.") from None
    if not keys:
        raise UsageError(f"--api-key-file: {path} holds no key; write one a line.")
    return keys


def _existing_folder(path: Path) -> Path:
    if not path.is_dir():
        raise UsageError(f"--allow-folder: {path} is no folder; check the path.")
    return path.resolve()


def _positive(name: str, value: Any, default: Any) -> Any:
    if value is None:
        return default
    if not value > 0:
        raise UsageError(f"{name} must be more than 0, got {value}.")
    return value


def _usual_folder() -> Path:
    """Where programs of this user keep their data."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "ltx2rt" / "serve"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "ltx2rt" / "serve"
