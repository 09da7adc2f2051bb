"""Pure numbers: no xarray, dask, zarr or I/O, no configuration, no clock."""

__version__ = "0.1.0"
