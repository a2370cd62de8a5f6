"""``ltx2rt download``: known sets of weights, or anything else of the Hugging Face hub, into the hub's own cache."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from ltx2rt.cli.transfer_progress import TransferProgress
from ltx2rt.errors import DownloadError, UsageError
from ltx2rt.graph.pipelines import pipeline_for_files
from ltx2rt.hub.cache import HubCache
from ltx2rt.hub.client import Hub
from ltx2rt.hub.download import (
    Item,
    State,
    Wanted,
    fetch,
    free_bytes,
    known_set,
    parts_of,
    require_access,
    require_space,
    survey,
    survey_offline,
    verify,
    wanted_parts,
    wanted_reference,
)
from ltx2rt.hub.known_set import KnownSet, Part
from ltx2rt.hub.known_sets import SETS
from ltx2rt.hub.reference import HubReference
from ltx2rt.memory.limits import format_bytes
from ltx2rt.spelling import spelled

_PROMPT = "a lighthouse at dusk; waves crash below while a violin plays"


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "download",
        help="fetch the weights of a model from the Hugging Face hub",
        description="Fetches a known set of weights into the hub's own cache (HF_HUB_CACHE, else "
        "~/.cache/huggingface/hub) and prints the command that uses it. Sizes and free space are shown first; what is "
        "here already is not fetched again, a transfer that broke off continues, and every file is checked against the "
        "hub's checksum. Without SET, or with --list, the known sets are listed.",
        epilog="Licences: gated repositories want their licence accepted on their page and a token (hf auth login). "
        "HF_ENDPOINT names a mirror, HTTPS_PROXY a proxy.",
    )
    parser.add_argument(
        "set",
        nargs="?",
        metavar="SET",
        help="a known set, such as ltx-2.5-distilled; or a repository ORG/NAME, a file ORG/NAME:FILE or files "
        "ORG/NAME:'*.safetensors', with a revision as ORG/NAME@REVISION:FILE",
    )
    parser.add_argument(
        "--format", metavar="NAME", help="of the set's weights: bf16, fp8, int8, gguf-q4, ...; see --list"
    )
    parser.add_argument(
        "--only",
        metavar="PART,...",
        help="these parts of the set alone, optional ones too: text_encoder,temporal_upscaler; see --list SET",
    )
    parser.add_argument("--list", action="store_true", help="show the known sets, or the parts of SET; asks nobody")
    parser.add_argument("--dry-run", action="store_true", help="show sizes and what is here, and fetch nothing")
    parser.add_argument(
        "--offline",
        action="store_true",
        help="ask nothing from the network: say what the cache has, and what is missing",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="also check the files that are here already; damaged ones are fetched again",
    )
    parser.add_argument("--quiet", action="store_true", help="no list of files and no progress")
    parser.set_defaults(run=run_download)


def run_download(arguments: argparse.Namespace) -> int:
    """Exit code 0 when everything that was asked for is in the cache, or was shown."""
    if arguments.set is None:
        refused = [name for name in ("format", "only", "verify", "dry_run", "offline") if getattr(arguments, name)]
        if refused:
            raise UsageError(f"--{refused[0].replace('_', '-')} goes with SET, which is missing; give it, too.")
        print("\n".join(_all_sets()))
        return 0
    known, wanted = _asked_for(arguments)
    if arguments.list:
        print("\n".join([f"{arguments.set}"] if known is None else _one_set(known)))
        return 0
    # What was only asked for is the answer; in a download it goes before the answer.
    answer = sys.stdout if arguments.dry_run else sys.stderr
    cache = HubCache()
    if arguments.offline:
        items = survey_offline(cache, wanted)
        hub = None
    else:
        hub = Hub(cache)
        items = survey(hub, wanted)
    if arguments.verify:
        with TransferProgress(sum(item.bytes or 0 for item in items), "checked", arguments.quiet) as progress:
            items = verify(items, cache, progress)
    if not arguments.quiet or arguments.dry_run:
        print("\n".join(_survey_lines(items, cache)), file=answer)
    if arguments.dry_run:
        return 0
    if hub is None:
        _require_here(items)
    else:
        require_space(cache, items)
        require_access(hub, items)
        needed = sum(item.missing_bytes for item in items)
        with TransferProgress(needed, "fetched", arguments.quiet or not needed) as progress:
            _fetch(hub, items, progress)
    print(next_command(known, wanted, arguments.set))
    return 0


def _fetch(hub: Hub, items: Sequence[Item], progress: TransferProgress) -> None:
    try:
        fetch(hub, items, progress)
    except KeyboardInterrupt:
        print("what has come is kept: the same command goes on", file=sys.stderr)
        raise


def _asked_for(arguments: argparse.Namespace) -> tuple[KnownSet | None, tuple[Wanted, ...]]:
    """The known set, if it is one, and the files."""
    reference = HubReference.parse(arguments.set)
    if reference is not None:
        for name in ("format", "only"):
            if getattr(arguments, name) is not None:
                raise UsageError(f"--{name} goes with a known set, and {reference} is a part of the hub; leave it out.")
        return None, wanted_reference(reference)
    known = known_set(arguments.set, arguments.format)
    only = [] if arguments.only is None else [name.strip().replace("-", "_") for name in arguments.only.split(",")]
    return known, wanted_parts(parts_of(known, only))


def _require_here(items: Sequence[Item]) -> None:
    """Refuse, naming each file that the cache lacks or has damaged."""
    lacking = [item for item in items if item.state is not State.HERE]
    if lacking:
        names = "".join(f"\n  {item.reference} ({item.state.value})" for item in lacking)
        raise DownloadError(
            f"{len(lacking)} of {len(items)} files cannot be used offline:{names}\nRun the same command without "
            "--offline where there is a network; docs/download.md says how to carry the cache to another machine."
        )


def next_command(known: KnownSet | None, wanted: Sequence[Wanted], target: str) -> str:
    """The command that uses what was fetched."""
    if known is None:
        reference = HubReference.parse(target)
        single = reference is not None and not set("*?[") & set(reference.file)
        return f"ltx2rt inspect {target if single else wanted[0].reference}"
    fetched = [want.part for want in wanted if want.part is not None]
    parts = {part.setting: part for part in (*known.usual, *fetched)}  # what was named comes in place of the usual
    pipeline = pipeline_for_files(known.variant, parts).name
    return "ltx2rt-generate " + " ".join(
        [f"--pipeline {pipeline}", *_options(list(parts.values())), f"--prompt {shlex.quote(_PROMPT)}"]
    )


def _options(parts: Sequence[Part]) -> Iterator[str]:
    for part in parts:
        yield spelled(part.setting, str(part.reference))


def _all_sets() -> Iterator[str]:
    yield f"{'set':<22}{'format':<12}{'to fetch':>10}  from"
    for index, known in enumerate(SETS):
        first = index == 0 or SETS[index - 1].name != known.name
        repositories = dict.fromkeys(part.repository for part in known.usual)
        names = ", ".join(f"{one.name}{' (gated)' if one.gated else ''}" for one in repositories)
        yield f"{known.name if first else '':<22}{known.format:<12}{_total(known.usual):>10}  {names}"
    yield ""
    yield "Of each set the first format is the one that `ltx2rt download SET` fetches. `--list SET` shows its parts."
    yield "Sizes are those published; +: and files whose size is not known. The hub's own sizes decide."


def _one_set(known: KnownSet) -> Iterator[str]:
    yield f"{known.name}, {known.format}: {_total(known.usual)} without the optional parts"
    yield ""
    for part in known.parts:
        size = "?" if part.gigabytes is None else format_bytes(part.gigabytes * 1e9)
        notes = [*(["optional"] if part.optional else []), *(["gated"] if part.repository.gated else [])]
        notes += [part.note] if part.note else []
        note = f" ({', '.join(notes)})" if notes else ""
        yield f"{part.setting:<18}{size:>10}  {part.reference}{note}"
    yield ""
    for repository in dict.fromkeys(part.repository for part in known.parts):
        yield f"{repository.name}: {repository.licence}, {repository.page}"


def _total(parts: Sequence[Part]) -> str:
    known = [part.gigabytes for part in parts if part.gigabytes is not None]
    return f"{sum(known):.1f} GB{'+' if len(known) < len(parts) else ''}"


def _survey_lines(items: Sequence[Item], cache: HubCache) -> Iterator[str]:
    for item in items:
        setting = item.wanted.part.setting if item.wanted.part is not None else ""
        size = "?" if item.bytes is None else format_bytes(item.bytes)
        done = f", {format_bytes(item.done)} of it" if item.state is State.PARTLY else ""
        yield f"{setting:<18}{size:>10}  {item.reference}  {item.state.value}{done}"
    needed = sum(item.missing_bytes for item in items)
    unknown = any(item.bytes is None for item in items)
    yield f"{'to fetch':<18}{format_bytes(needed):>10}{' and what is not known' if unknown else ''}"
    yield f"{'free':<18}{format_bytes(free_bytes(cache.folder)):>10}  {cache.folder}"
