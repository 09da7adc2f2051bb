"""Tools for testing code that rechunks; `xchunk.testing.strategies` needs hypothesis."""
