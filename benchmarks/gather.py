"""What the benchmarks have measured until now, as one file: `python benchmarks/gather.py STATE OUT`.

Python's own modules alone: it runs after every step of benchmarks/gpu.sh, and importing ours takes seconds.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def gather(state: Path, out: Path) -> dict[str, dict[str, Any]]:
    """Every result of `run.py` by its file's name, as written to OUT/benchmarks.json if there is any.

    Few files: whatever carries them back may count them.
    """
    paths = sorted((state / "results").glob("*.json"))
    measured = {path.stem: json.loads(path.read_text()) for path in paths}
    if measured:
        out.mkdir(parents=True, exist_ok=True)
        part = out / "benchmarks.json.part"
        part.write_text(json.dumps(measured, indent=1) + "\n")
        os.replace(part, out / "benchmarks.json")
    return measured


if __name__ == "__main__":
    gather(Path(sys.argv[1]), Path(sys.argv[2]))
