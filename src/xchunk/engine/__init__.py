"""What runs on workers: the copy function, dask graphs, and budgets of machines."""
