"""Checks, probes, graphs and observations of data and computations."""
