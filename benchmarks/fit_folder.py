"""Register one data set from disk to disk and print what it cost, as JSON: a process of its own."""

import json
import sys
import tempfile
import time
from pathlib import Path

BEGIN = time.perf_counter()


def main(folder: Path, device: str) -> None:
    import torch

    from deformlearn import templates
    from deformlearn.registering import register_split
    from machine import Bench, peak_megabytes
    from registration_speed import default_config

    bench = Bench(torch.device(device))
    template = templates.load().to(bench.device)
    with tempfile.TemporaryDirectory(dir=folder.parent) as out:
        begin = time.perf_counter()
        register_split(
            folder, "train", template, Path(out) / "estimates.parquet", default_config(bench),
            lifter=None, device=bench.device,
        )  # fmt: skip
        seconds = time.perf_counter() - begin
    print(json.dumps({"seconds": seconds, "start": begin - BEGIN, "megabytes": peak_megabytes()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
