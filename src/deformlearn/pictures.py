"""Pictures as files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from deformlearn.files import write_atomically


def save_png(path: Path, picture: np.ndarray) -> None:
    """Write (height, width, 3) uint8 as png; complete or not at all."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "png")
    write_atomically(path, buffer.getvalue())
