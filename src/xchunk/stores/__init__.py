"""Zarr, and what is beneath it: stores, chunks, shards and their codecs."""
