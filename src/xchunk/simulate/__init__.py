"""What a lazy result would cost: its graph is built and replayed, never run on data."""
