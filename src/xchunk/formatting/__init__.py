"""Showing things: text for terminals, HTML for notebooks."""
