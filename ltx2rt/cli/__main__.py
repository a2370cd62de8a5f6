"""``python -m ltx2rt.cli``: the same as the ``ltx2rt`` command."""

from ltx2rt.cli.entry import main

main()
