"""Targets: what is written, where, and how it is made visible as a whole."""
