"""``python -m ltx2rt.cli``: the same as the ``ltx2rt`` command."""

from ltx2rt.cli.main import main

main()
