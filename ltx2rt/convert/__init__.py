"""Weight files written anew in another format, piece by piece."""
