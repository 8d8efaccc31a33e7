"""Pictures as files."""

from __future__ import annotations

import base64
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


def jpeg_uri(picture: np.ndarray) -> str:
    """(height, width, 3) uint8 as a data URI, for a page that needs no other file."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "JPEG", quality=86, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
