"""Where the commands begin: what Ctrl-C does before the program is loaded."""

from __future__ import annotations

import signal

# Loading takes a second. Nothing has been begun then, so that the process may simply end.
_python_handler = signal.signal(signal.SIGINT, signal.SIG_DFL)

from ltx2rt.cli import main as _program  # noqa: E402  # after the line above

signal.signal(signal.SIGINT, _python_handler)

main = _program.main
generate_main = _program.generate_main
