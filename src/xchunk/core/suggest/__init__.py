"""Suggestions: how data will be used, and which chunks fit that use and the memory."""
