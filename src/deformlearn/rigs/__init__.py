"""Rigged humans of other formats, reduced to our 24 segments."""
