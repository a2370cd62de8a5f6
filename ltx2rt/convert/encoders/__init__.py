"""The formats in which matrices are written, one encoder each."""
