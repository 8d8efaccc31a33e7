"""Where the commands print to."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from deformlearn.progress import Watch


def watch() -> Watch:
    """Progress, on stderr."""
    from deformlearn.progress import Watch

    return Watch()


def console() -> Console:
    """Results, on stdout."""
    from rich.console import Console

    # A pipe has no width of its own: give tables the room they need.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120
    return Console(highlight=False, width=width)
