"""The command line: what a user types, delegated to the Python API, and shown."""
