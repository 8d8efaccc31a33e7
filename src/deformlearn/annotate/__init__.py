"""Annotate photographs by hand in the browser: `command.annotate`."""
