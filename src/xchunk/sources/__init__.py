"""Stored arrays as sources: traced, described and read raw."""
