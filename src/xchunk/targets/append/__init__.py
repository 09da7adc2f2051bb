"""What is written to a store that exists already."""
