"""The one error a user should ever see: what was wanted, what came, what to do."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input. The command line prints its message as one line and exits with code 2."""
