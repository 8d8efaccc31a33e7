"""The smallest runs of the whole method, and processes that do one together (tests/test_distributed.py).

    python tests/tiny_runs.py DATA OUT [word=value ...]
    torchrun --nproc-per-node 2 tests/tiny_runs.py DATA OUT

The people are octahedra in noise: what a network learns from them means nothing, that it is always the
same does.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import distributed as group

from conftest import octahedra, plant
from deformlearn import distributed
from deformlearn.config import LifterConfig, RegistrationConfig, RegressorConfig, RunConfig
from deformlearn.data.shards import DatasetInfo, Row, write_info, write_rows
from deformlearn.data.truth import TruthRow, write_truth
from deformlearn.distributed import together
from deformlearn.errors import InputError
from deformlearn.estimate import camera_joints
from deformlearn.observations import Observations
from deformlearn.progress import Watch
from deformlearn.rounds import deform_and_learn
from deformlearn.skeleton import joint_set
from disks import no_larger_file

TINY = RunConfig(
    rounds=2,
    device="cpu",
    workers=1,
    registration=RegistrationConfig(first_iterations=1, iterations=3, batch=4),
    lifter=LifterConfig(width=16, steps=30, batch=8),
    regressor=RegressorConfig(
        backbone="test_resnet", pretrained=False, size=32, batch=8, epochs=3, learning_rate=1e-3,
        head_steps=5, head_views=1, head_batch=8,
    ),
)  # fmt: skip


def planted_rows(seen: Observations) -> list[Row]:
    """Planted people as rows of a data set whose crops lie somewhere in a larger image."""
    centre, half = np.array([200.0, 150.0]), 80.0
    return [
        Row(
            key=f"p{row:02d}",
            crop=(200.0, 150.0, 80.0),
            points=seen.points[row].numpy() * half + centre,
            faces=seen.faces[row].numpy(),
            barycentric=seen.barycentric[row].numpy(),
            point_weights=np.ones(seen.points.shape[1]),
            keypoints=seen.keypoints[row].numpy() * half + centre,
            keypoint_weights=np.ones(seen.keypoints.shape[1]),
        )
        for row in range(len(seen.points))
    ]


def write_people(
    folder: Path,
    *,
    train: int = 22,
    test: int = 5,
    shard: int = 8,
    keypoints_seen: bool = True,
    half_poses: int = 0,
    known: str = "skeleton25",
) -> Path:
    """A data set with truth: two splits, `shard` people a shard; both know this joint set.

    The first few people of each split may lack a key point (`half_poses`).
    """
    joints = joint_set(known)
    template = octahedra()
    write_info(
        folder, DatasetInfo(template.name, template.fingerprint, joints.name, joints.landmarks)
    )
    noise = np.random.default_rng(0)
    for split, people, seed in (("train", train, 0), ("test", test, 1)):
        truth, seen, crop = plant(template, people, seed, joints=known)
        points, keypoints = (crop.to_pixels(x).numpy() for x in (seen.points, seen.keypoints))
        landmarks = camera_joints(template, truth, joints.name).numpy() * 1000
        rows, truths = [], []
        for i in range(people):
            whole = np.ones(len(joints), np.float32)
            whole[-1] = i >= half_poses
            file = io.BytesIO()
            Image.fromarray(noise.integers(0, 255, (32, 32, 3), np.uint8)).save(file, "png")
            rows.append(
                Row(
                    key=f"{split}-{i:03d}", crop=(64.0, 64.0, 64.0), points=points[i],
                    faces=seen.faces[i].numpy(), barycentric=seen.barycentric[i].numpy(),
                    point_weights=seen.point_weights[i].numpy(), keypoints=keypoints[i],
                    keypoint_weights=seen.keypoint_weights[i].numpy() * keypoints_seen * whole,
                    image=file.getvalue(), action="still",
                )
            )  # fmt: skip
            truths.append(TruthRow(rows[-1].key, landmarks[i]))
        for number, first in enumerate(range(0, people, shard)):
            write_rows(folder, split, number, rows[first : first + shard])
            write_truth(folder, split, number, truths[first : first + shard])
    return folder


def command(
    data: Path,
    out: Path,
    *words: str,
    processes: int = 1,
    restarts: int = 0,
    launched: bool = False,
) -> list[str]:
    """The command line of a tiny run, by torchrun if several or `launched`."""
    alone = processes == 1 and not launched
    launcher = [sys.executable] if alone else torchrun(processes, restarts)
    return [*launcher, __file__, str(data), str(out), *words]


def torchrun(processes: int, restarts: int = 0) -> list[str]:
    """What starts a script in several processes."""
    # A port of its own for every run: several may be tested at once.
    return [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes),
        "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "--max-restarts", str(restarts),
    ]  # fmt: skip


def run(
    data: Path, out: Path, *words: str, processes: int = 1, patience: float | None = None
) -> subprocess.CompletedProcess[str]:
    """A tiny run in processes of its own, of one thread each."""
    return subprocess.run(
        command(data, out, *words, processes=processes),
        capture_output=True,
        text=True,
        env=one_thread(),
        timeout=patience,
    )


def one_thread() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def die_after(out: Path, name: str) -> None:
    """Have this process killed when it has put this file of the run in its place; once in all starts."""
    died, replace = mark_of_death(out, name), os.replace

    def replace_and_die(source, target) -> None:
        replace(source, target)
        if Path(target) == out / name and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace_and_die


def leave_as_nccl_does() -> None:
    """From now on nobody can leave before all do: its kernels end when those of the others do."""
    leave = group.destroy_process_group

    def wait_and_leave() -> None:
        store = distributed.group.distributed_c10d._get_default_store()
        store.set(f"leaving/{group.get_rank()}", "")
        for rank in range(group.get_world_size()):
            store.get(f"leaving/{rank}")
        leave()

    group.destroy_process_group = wait_and_leave
    distributed._on_gpus = group.is_initialized


def mark_of_death(out: Path, name: str) -> Path:
    """Is there when a process was killed at this file."""
    return out.with_name(f"{out.name} {name.replace('/', ' ')}")


def main(data: str, out: str, *words: str) -> None:
    """Do a tiny run. `word=value` changes the configuration; `1:word=value` that of process 1 alone.

    `kill=FILE` is where the process is killed, `most=BYTES` the largest file that it may write; `nccl=1`
    has the processes take leave as NCCL does.
    """
    files = contextlib.ExitStack()
    rank = os.environ.get("RANK", "0")
    config, chosen = TINY, Path(data)
    for word in words:
        whom, _, change = word.rpartition(":")
        name, _, value = change.partition("=")
        if whom not in ("", rank):
            continue
        if name == "data":
            chosen = Path(value)
        elif name == "kill":
            die_after(Path(out), value)
        elif name == "most":
            files.enter_context(no_larger_file(int(value)))
        elif name == "nccl":
            leave_as_nccl_does()
        elif name == "batch":
            config = replace(config, regressor=replace(config.regressor, batch=int(value)))
        else:
            config = replace(config, **{name: json.loads(value)})
    try:
        with together(config.device) as team:
            template = octahedra()
            deform_and_learn(
                chosen, Path(out), config, template, team=team, watch=Watch(quiet=not team.leads)
            )
    except InputError as error:
        print(f"refused by {rank}: {error}")
        sys.exit(2)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
