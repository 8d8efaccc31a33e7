"""Register one data set from disk to disk, in a process of its own: `fit_folder.py DATA OUT DEVICE`.

What it cost is kept in OUT/cost.json. A call that is stopped leaves there what it took until then (to a
second), and in OUT what it has fitted: the next call goes on with it, and adds its own.
"""

import json
import sys
import threading
import time
from pathlib import Path

BEGIN = time.perf_counter()


def main(folder: Path, out: Path, device: str) -> None:
    import torch

    from deformlearn import templates
    from deformlearn.files import write_atomically
    from deformlearn.registering import register_split
    from deformlearn.runtime import end_with_parent
    from machine import Bench, peak_megabytes
    from registration_speed import default_config

    end_with_parent()
    bench = Bench(torch.device(device))
    template = templates.load().to(bench.device)
    path = out / "cost.json"
    begin = time.perf_counter()
    before = {"seconds": 0.0, "start": begin - BEGIN, "megabytes": 0.0, "calls": 0}
    if path.exists():
        before = json.loads(path.read_text())

    def keep(*, finished: bool) -> None:
        cost = {
            "seconds": before["seconds"] + time.perf_counter() - begin,
            "start": before["start"],
            "megabytes": max(before["megabytes"], peak_megabytes()),
            "calls": before["calls"] + 1,
            "finished": finished,
        }
        write_atomically(path, json.dumps(cost).encode())

    over = threading.Event()

    def keep_every_second() -> None:  # what is killed cannot say how long it took
        while not over.wait(1.0):
            keep(finished=False)

    keep(finished=False)
    clerk = threading.Thread(target=keep_every_second, daemon=True)
    clerk.start()
    finished = False
    try:
        register_split(
            folder, "train", template, out / "estimates.parquet", default_config(bench),
            lifter=None, device=bench.device,
        )  # fmt: skip
        finished = True
    finally:
        over.set()
        clerk.join()
        keep(finished=finished)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
