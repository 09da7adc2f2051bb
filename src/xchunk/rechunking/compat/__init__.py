"""rechunker's interface and engine, on zarr 3."""
