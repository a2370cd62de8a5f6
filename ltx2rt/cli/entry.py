"""Where the commands begin: what Ctrl-C does before the program is loaded."""

from __future__ import annotations

import signal

# Loading takes a second. Nothing has been begun then, so that the process may simply end.
_handler = signal.getsignal(signal.SIGINT)
if _handler is signal.default_int_handler:  # and not ignored, as under nohup
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from ltx2rt.cli import main as _program  # noqa: E402  # after the line above

signal.signal(signal.SIGINT, _handler)

main = _program.main
generate_main = _program.generate_main
