"""Results of the self-proof on disk: one file per device, system, MLX and build of ltx2rt."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from ltx2rt.atomic_file import AtomicFile
from ltx2rt.kernels.selection import Implementation

# Raised when outcomes mean something else than before.
FORMAT = 2


@dataclass(frozen=True)
class Outcome:
    """What the proof of one variant found.

    Attributes:
        choice: what is used from now on.
        error: largest difference from the reference; -1 when nothing could be compared.
        tolerance: how large it may be.
        seconds: of each implementation that was timed.
        fault: why the kernel is not used: it does not compile, differs, or ended the process. Empty when it is sound.
    """

    choice: Implementation
    error: float = -1.0
    tolerance: float = 0.0
    seconds: Mapping[str, float] | None = None
    fault: str = ""


def cache_folder(environ: Mapping[str, str] = os.environ, system: str = sys.platform) -> Path:
    """Where this platform keeps what can be made again; ``LTX2RT_CACHE`` names another folder."""
    if environ.get("LTX2RT_CACHE"):
        return Path(environ["LTX2RT_CACHE"])
    home = Path(environ.get("HOME") or Path.home())
    if system == "darwin":
        return home / "Library/Caches/ltx2rt"
    return Path(environ.get("XDG_CACHE_HOME") or home / ".cache") / "ltx2rt"


class ProofStore:
    """The outcomes known for one machine, in memory and in a file.

    A damaged file counts as empty. When the folder cannot be written, `problem` says why and outcomes last as long as
    the process.
    """

    def __init__(self, identity: Mapping[str, str], folder: Path) -> None:
        self.identity = dict(identity)
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]
        self.path = folder / f"metal-kernels-{digest}.json"
        self.problem = ""
        self._outcomes, self._started = self._read()

    def outcome(self, key: str) -> Outcome | None:
        return self._outcomes.get(key)

    def outcomes(self) -> dict[str, Outcome]:
        return dict(self._outcomes)

    def ended_the_process(self, key: str) -> bool:
        """Whether a process began to prove this variant, never finished and is gone."""
        return key in self._started and not _is_running(self._started[key])

    def start(self, key: str) -> bool:
        """Notes that this process begins a proof, which may end it; False when that cannot be written down."""
        return self._write(started={key: os.getpid()})

    def abandon(self, key: str) -> None:
        """Takes `start` back: the proof was interrupted and says nothing."""
        self._write(finished=key)

    def finish(self, key: str, outcome: Outcome) -> None:
        self._outcomes[key] = outcome
        self._write(finished=key)

    def forget(self) -> None:
        """Drops every outcome, so that all is proven again."""
        self._outcomes, self._started = {}, {}
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            self.problem = str(error)

    def _read(self) -> tuple[dict[str, Outcome], dict[str, int]]:
        try:
            content = json.loads(self.path.read_text("utf-8"))
            if content["format"] != FORMAT or content["identity"] != self.identity:
                return {}, {}
            outcomes = {str(key): _outcome(value) for key, value in content["outcomes"].items()}
            return outcomes, {str(key): int(pid) for key, pid in content["started"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}, {}

    def _write(self, started: Mapping[str, int] | None = None, finished: str = "") -> bool:
        """Adds to what other processes may have written meanwhile, and replaces the file in one step."""
        outcomes, running = self._read()
        self._outcomes = outcomes | self._outcomes
        self._started = running | dict(started or {})
        self._started.pop(finished, None)
        content = {
            "format": FORMAT,
            "identity": self.identity,
            "outcomes": {key: asdict(outcome) for key, outcome in self._outcomes.items()},
            "started": self._started,
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with AtomicFile(self.path, shared=True) as file:
                file.write(json.dumps(content, indent=1).encode())
        except OSError as error:
            self.problem = str(error)
            return False
        return True


def _outcome(value: Any) -> Outcome:
    """Raises ValueError or TypeError for anything that `asdict` would not have made."""
    outcome = Outcome(**value)
    numbers = [outcome.error, outcome.tolerance, *(outcome.seconds or {}).values()]
    if outcome.choice not in get_args(Implementation) or not all(isinstance(n, float | int) for n in numbers):
        raise ValueError("not an outcome")
    return outcome


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
