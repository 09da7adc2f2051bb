"""Running plans: the copy function, dask, and budgets read from the machine."""
