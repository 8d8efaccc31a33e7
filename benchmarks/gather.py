"""What the benchmarks have measured until now, as one file: `python benchmarks/gather.py RESULTS OUT`.

Python's own modules alone: it runs after every step of benchmarks/gpu.sh, and importing ours takes seconds.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def gather(results: Path, out: Path) -> dict[str, dict[str, Any]]:
    """Results of `run.py` by the names of their files; what there is goes into OUT/benchmarks.json.

    Few files: whatever carries them back may count them.
    """
    paths = sorted(results.glob("*.json"))
    measured = {path.stem: json.loads(path.read_text()) for path in paths}
    if measured:
        out.mkdir(parents=True, exist_ok=True)
        part = out / "benchmarks.json.part"
        part.write_text(json.dumps(measured, indent=1) + "\n")
        os.replace(part, out / "benchmarks.json")
    return measured


if __name__ == "__main__":
    gather(Path(sys.argv[1]), Path(sys.argv[2]))
