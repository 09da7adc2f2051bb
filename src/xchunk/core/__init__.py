"""Pure numbers: no xarray, dask, zarr or I/O, no configuration, no clock."""
