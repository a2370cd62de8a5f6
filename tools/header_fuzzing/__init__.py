"""The parts of `tools/fuzz_headers.py`: small weight files, mutants of them, and what the readers make of them."""
