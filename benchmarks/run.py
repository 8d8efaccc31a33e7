"""Every goal of the project as a measured number: metric, value, unit, goal, and whether it is met.

    python benchmarks/run.py                     accuracy and speed, on fresh people (about 15 minutes)
    python benchmarks/run.py --only speed        one group: accuracy, speed, start
    python benchmarks/run.py --demo runs/demo    also the goals of a finished demo with --run.baselines

Fresh people have a seed that was never used for tuning (tuning used seed 0, split `val`). Speeds are
ratios to a goal for two CPU cores: quote them with the machine that the results file names.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from deformlearn import lifter as lifting
from deformlearn import runtime, templates
from deformlearn.config import PRESETS, LifterConfig, RegistrationConfig, SyntheticConfig
from deformlearn.data.shards import read_people, read_truth
from deformlearn.data.synthetic import make_person, synthesize
from deformlearn.densepose_charts import CarriedCharts, read_densepose_charts
from deformlearn.evaluation import score_estimates, true_depths, true_joints
from deformlearn.progress import Watch
from deformlearn.registration import register
from deformlearn.rundir import RunFolder

FRESH_SEED = 7001
WATCH = Watch()


@dataclass(frozen=True)
class Measured:
    metric: str
    value: float
    unit: str
    goal: float
    smaller_is_better: bool = True

    @property
    def met(self) -> bool:
        return self.value <= self.goal if self.smaller_is_better else self.value >= self.goal


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", choices=("accuracy", "speed", "start"))
    parser.add_argument("--demo", type=Path, help="finished demo folder")
    parser.add_argument(
        "--data", type=Path, default=Path("runs/bench"), help="where fresh people are kept"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument(
        "--densepose",
        type=Path,
        help="folder with DensePose's UV_Processed.mat and demo_im_IUV.png",
    )
    options = parser.parse_args()
    groups = {"accuracy": lambda: accuracy(options.data), "speed": speed, "start": start}
    found: list[Measured] = []
    for name, group in groups.items():
        if options.only in (None, name):
            found += group()
    if options.densepose is not None:
        found += charts(options.densepose)
    if options.demo is not None:
        found += demo(options.demo)
    report(found, options)


def accuracy(folder: Path) -> list[Measured]:
    """Registration and lifting of fresh people."""
    template = templates.load()
    config = SyntheticConfig(train=2500, val=0, test=400, seed=FRESH_SEED)
    exact, lifted, truth, people, lifter_mm, zero_mm = _lifted(template, folder / "exact", config)
    del exact
    mean = ["all"] * len(people)
    oracle = replace(RegistrationConfig(), depth_weight=10.0)
    found, _ = register(template, true_depths(people.observations, truth), people.crop, oracle)
    best = score_estimates(template, found, truth, mean)
    found, _ = register(template, lifted, people.crop, RegistrationConfig())
    first = score_estimates(template, found, truth, mean)
    rough = replace(config, quality="predicted")
    _, noisy, noisy_truth, noisy_people, *_ = _lifted(template, folder / "predicted", rough)
    found, _ = register(template, noisy, noisy_people.crop, RegistrationConfig())
    third = score_estimates(template, found, noisy_truth, mean)
    return [
        Measured("registration, true depths, exact points: true size", best.true_size, "mm", 16),
        Measured("registration, true depths, exact points: PA", best.aligned, "mm", 12),
        Measured("registration, lifted depths, exact points: raw", first.raw, "mm", 65),
        Measured("registration, lifted depths, exact points: PA", first.aligned, "mm", 45),
        Measured("registration, lifted depths, predicted points: raw", third.raw, "mm", 80),
        Measured(f"lifter depth error (zero depth {zero_mm:.0f})", lifter_mm, "mm", 80),
    ]


def _lifted(template, folder, config):
    """Fresh people with the depths of a lifter that was trained on others' 2D."""
    with WATCH.stage(f"people in {folder}", config.train + config.test) as advance:
        synthesize(folder, config, workers=2, progress=lambda done, _: advance(done))
    path = folder / "lifter.safetensors"
    if not path.exists():
        seen = read_people(folder, "train", template).observations
        budget: LifterConfig = PRESETS["laptop"].run.lifter
        with WATCH.stage("lifter", budget.steps) as advance:
            trained = lifting.train(
                seen.keypoints, seen.keypoint_weights, seen.joints, budget,
                after_chunk=lambda now: advance(now.step),
            )  # fmt: skip
        lifting.save_lifter(trained, path)
    lifter = lifting.load_lifter(path)
    people = read_people(folder, "test", template)
    truth = read_truth(folder, "test", people.keys)
    lifted = lifter.lift(people.observations)
    oracle = true_depths(people.observations, truth)
    joints = true_joints(truth, people.observations.joint_set)
    flat = (joints - joints[:, :1])[..., :2]
    seen = people.observations.keypoints - people.observations.keypoints[:, :1]
    mm = flat.square().sum((1, 2)) / (flat * seen).sum((1, 2))
    error = ((lifted.depths - oracle.depths).abs().mean(1) * mm).mean().item()
    zero = (oracle.depths.abs().mean(1) * mm).mean().item()
    return people.observations, lifted, truth, people, error, zero


def speed() -> list[Measured]:
    """People registered a second (24 segments, 128 points, 150 steps), and images a second a core."""
    template = templates.load()
    torch.manual_seed(0)
    people = 1000
    observations, crop = planted(template, people, 128)
    base = RegistrationConfig(first_steps=60, steps=90, batch=1000)
    rates = {}
    for name in ("never", "always"):
        config = replace(base, compile=name)
        register(template, observations, crop, replace(config, first_steps=2, steps=2))
        rates[name] = max(_rate(template, observations, crop, config) for _ in range(3))
    config = SyntheticConfig(train=64, val=0, test=0)
    torch.set_num_threads(1)
    make_person(config, "train", 0)
    begin = time.perf_counter()
    for index in range(64):
        make_person(config, "train", index)
    images = 64 / (time.perf_counter() - begin)
    return [
        Measured("registration, eager", rates["never"], "people/s", 150, False),
        Measured("registration, compiled", rates["always"], "people/s", 300, False),
        Measured("synthetic people, 128 px, one core", images, "images/s", 25, False),
    ]


def _rate(template, observations, crop, config) -> float:
    begin = time.perf_counter()
    register(template, observations, crop, config)
    return len(crop) / (time.perf_counter() - begin)


def planted(template, people: int, points: int):
    """Random poses on the template and the observations they give."""
    from deformlearn.body import BodyParameters
    from deformlearn.camera import Crop
    from deformlearn.estimate import Estimate, project_points
    from deformlearn.observations import Observations
    from deformlearn.skeleton import joint_set

    rest = Estimate.rest(template, people)
    truth = replace(
        rest, body=BodyParameters(rest.body.scales, 0.3 * torch.randn_like(rest.body.pose))
    )
    faces = torch.randint(len(template.faces), (people, points))
    barycentric = torch.distributions.Dirichlet(torch.ones(3)).sample((people, points))
    seen = project_points(template, truth, template.surface_points(faces, barycentric))
    joints = project_points(template, truth, template.keypoints(joint_set("smpl24")))
    ones = torch.ones(people, 24)
    observations = Observations(
        seen[..., :2], faces, barycentric, torch.ones(people, points), joints[..., :2], ones,
        joints[..., 2] - joints[:, :1, 2], ones, "smpl24",
    )  # fmt: skip
    return observations, Crop(torch.zeros(people, 2), torch.full((people,), 64.0))


def charts(folder: Path) -> list[Measured]:
    """DensePose labels to surface points of the default body."""
    read = read_densepose_charts(folder / "UV_Processed.mat")
    carried = CarriedCharts(read, templates.load())
    v, u, part = np.moveaxis(np.asarray(Image.open(folder / "demo_im_IUV.png")), -1, 0)
    seen = np.resize(np.flatnonzero(part), 1_000_000)
    part, u, v = (plane.ravel()[seen] for plane in (part.astype(np.int64), u, v))
    begin = time.perf_counter()
    carried.table  # noqa: B018 (made, or read from the cache, when it is first asked for)
    table = time.perf_counter() - begin
    begin = time.perf_counter()
    carried.points_of_bytes(part, u, v)
    bytes_rate = len(part) / (time.perf_counter() - begin)
    few = slice(0, 200_000)
    carried.points(part[:10], u[:10] / 255, v[:10] / 255)
    begin = time.perf_counter()
    carried.points(part[few], u[few] / 255 + 1e-4, v[few] / 255)
    float_rate = 200_000 / (time.perf_counter() - begin)
    return [
        Measured("DensePose labels of 8 bits to the body", bytes_rate, "pixels/s", 1e6, False),
        Measured("DensePose labels of floats to the body", float_rate, "pixels/s", 1e5, False),
        Measured("table of the 8-bit labels, made or read", table, "s", 30),
    ]


def start() -> list[Measured]:
    """What a newcomer waits for first."""
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "deformlearn", "--help"], check=True, capture_output=True
        )
        times.append(time.perf_counter() - begin)
    return [Measured("deformlearn --help, median", sorted(times)[2], "s", 0.5)]


def demo(folder: Path) -> list[Measured]:
    """The goals that a whole demo decides."""
    run = RunFolder(folder / "run")
    rounds = max(record["round"] for record in run.records())
    first = run.record("register", 1)["scores"]["raw"]
    last = run.record("register", rounds)["scores"]["raw"]
    regressor = [run.record("learn", r)["scores"]["raw"] for r in range(1, rounds + 1)]
    falls = max(later - earlier for earlier, later in pairwise(regressor))
    mean = run.record("references")["mean_pose"]["raw"]
    found = [
        Measured("registration, last round less round 1: raw", last - first, "mm", 0),
        Measured(f"demo regressor, test (mean pose {mean:.0f}): raw", regressor[-1], "mm", 155),
        Measured("demo regressor, largest rise between rounds: raw", falls, "mm", 0),
    ]
    for control in ("control: own fit continued", "control: second start"):
        if record := run.record(control):
            gap = last - record["scores"]["raw"]
            found.append(Measured(f"registration, last round less {control}: raw", gap, "mm", 0))
    if record := run.record("full 3D supervision"):
        ratio = regressor[-1] / record["scores"]["raw"]
        found.append(Measured("demo regressor / full 3D supervision: raw", ratio, "ratio", 1.08))
    return found


def report(found: list[Measured], options: argparse.Namespace) -> None:
    """Print the table and keep it with the machine that made it."""
    for one in found:
        sign = "<=" if one.smaller_is_better else ">="
        verdict = "met" if one.met else "NOT MET"
        print(
            f"{one.metric:62s} {one.value:9.2f} {one.unit:9s} goal {sign} {one.goal:<7g} {verdict}"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    record = {
        "versions": runtime.versions(),
        "threads": torch.get_num_threads(),
        "processor": _processor(),
        "demo": None if options.demo is None else options.demo.name,
        "measured": [{**asdict(one), "met": one.met} for one in found],
    }
    path = options.out / f"{time.strftime('%Y-%m-%d')}-{options.only or 'all'}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(f"written: {path}")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")


if __name__ == "__main__":
    main()
