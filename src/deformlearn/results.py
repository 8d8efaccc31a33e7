"""Predictions as files: NPZ, OBJ and an overlay for each image, one overlay video for each video."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deformlearn import runtime
from deformlearn.body import BodyTemplate
from deformlearn.camera import Crop
from deformlearn.config import RegistrationConfig
from deformlearn.data.boxes import Boxes, PersonBox, is_inside, read_boxes
from deformlearn.data.estimates import Estimates, flags_of, together, write_estimates
from deformlearn.data.images import open_image, to_pixels
from deformlearn.data.sources import Frame
from deformlearn.data.video import VideoWriter, frame_count, frame_rate, is_video, read_frames
from deformlearn.errors import InputError
from deformlearn.estimate import project_points
from deformlearn.exports.about import mesh_comments
from deformlearn.exports.axes import estimate_mesh
from deformlearn.exports.meshes import write_obj
from deformlearn.exports.npz import write_npz
from deformlearn.exports.people import safe_name, usable
from deformlearn.lifter import Lifter, load_lifter
from deformlearn.observations import Observations, no_points
from deformlearn.pictures import save_png
from deformlearn.predict import around_box, predict_crops, require_template, whole_image
from deformlearn.progress import QUIET, Watch
from deformlearn.registration import register
from deformlearn.regressor import Regressor, load_network
from deformlearn.render import overlay
from deformlearn.skeleton import joint_set
from deformlearn.tensors import concatenate

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}

_BATCH = 8
"""Pictures that are held at once; a photograph may well have 40 MB."""

_TRACK = 32
"""Bytes of a track that becomes part of a file's name; a longer one gives way to its number."""


def predict_to_files(
    run: Path,
    sources: Sequence[Path],
    out: Path,
    template: BodyTemplate,
    *,
    boxes: Path | None = None,
    meshes: bool = False,
    refine: bool = False,
    device: str = "auto",
    watch: Watch = QUIET,
) -> Estimates:
    """Predict the people of images and videos and write what was found; all in estimates.parquet.

    `run` is a run folder (its last round counts) or a network file; `sources` are images, folders of
    images, and videos. `boxes` says where the people are (data.boxes.read_boxes); without it each
    picture shows one person who fills it. An image NAME gets NAME.png, and NAME.npz and NAME.obj a
    person; a video NAME gets NAME.mp4, and with `meshes` a folder NAME of npz and obj. With boxes,
    people are called NAME_p<track or number>; frames NAME_<six digits>. NAME is the source's, with what
    some file system does not take replaced (`exports.people.safe_name`). With `refine`, each prediction
    is registered to the key points that the network itself sees, with the depths of the run's
    lifter where it has one.

    A few pictures are held at once, whatever the length of a video. What cannot be read, and boxes
    that show nothing, are listed and left out; nothing at all to predict is an InputError.
    """
    network = load_network(last_network(run))
    require_template(network, template)
    lifter = run / "lifter.safetensors"
    images, videos = _listed(sources)
    job = _Job(
        network,
        template,
        runtime.device(device),
        out,
        None if boxes is None else _places(boxes, videos, watch),
        load_lifter(lifter) if refine and lifter.is_file() else None,
        watch,
    )
    lengths = dict(_lengths(videos, job))
    found: list[Estimates] = []
    with watch.stage("predict", len(images) + sum(lengths.values())) as advance:
        done = 0
        for pictures in _chunks(_images(images, job)):
            for picture, several in _predict(pictures, job, refine):
                if several:
                    found.append(several)
                    _write_image(picture, several, job)
            advance(done := min(done + _BATCH, len(images)))
        for video, length in lengths.items():
            name = job.unique(safe_name(video.stem))
            with VideoWriter(job.target(f"{name}.mp4", video), frame_rate(video)) as writer:
                for pictures in _chunks(_frames(video, name, length, job)):
                    for picture, several in _predict(pictures, job, refine):
                        writer.add(_drawn(picture, several, job))
                        if several:
                            found.append(several)
                            if meshes:
                                _write_people(out / name, several, job)
                    advance(done := done + len(pictures))
    if not found:
        reason = f": {job.left_out[0]}" if job.left_out else ""
        raise InputError(f"nothing to predict from{reason}")
    people = together(found)
    write_estimates(out / "estimates.parquet", people, template)
    return people


@dataclass(frozen=True, eq=False)
class _Job:
    """What all pictures of one prediction share."""

    network: Regressor
    template: BodyTemplate
    device: torch.device
    out: Path
    places: Boxes | None
    """Where the people are; None: each picture shows one, who fills it."""
    lifter: Lifter | None
    watch: Watch
    taken: set[str] = field(default_factory=set)
    """Names that are given, without capitals: not every file system tells them apart."""
    left_out: list[str] = field(default_factory=list)
    """What could not be used, and why."""

    def leave_out(self, what: str) -> None:
        self.left_out.append(what)
        self.watch.say(f"left out: {what}")

    def unique(self, name: str) -> str:
        """The name, numbered where it is given already, be it in other capitals."""
        again, tried = 2, name
        while tried.casefold() in self.taken:
            tried, again = f"{name}-{again}", again + 1
        self.taken.add(tried.casefold())
        return tried

    def target(self, name: str, source: Path) -> Path:
        """Where a picture is written; never over the one it was made from."""
        path = self.out / name
        if path.resolve() == source.resolve():
            raise InputError(f"the overlay would replace {source} itself; choose another --out")
        return path


@dataclass(frozen=True, eq=False)
class _Picture:
    """A picture and where its people are."""

    name: str
    source: Path
    image: Image.Image
    boxes: Sequence[PersonBox] | None


@dataclass(frozen=True, eq=False)
class _View:
    """One person, cut out."""

    key: str
    picture: int
    crop: Crop
    pixels: Tensor


def _listed(sources: Sequence[Path]) -> tuple[list[tuple[Path, Frame | None]], list[Path]]:
    """Images (of a folder with their place in it, as if it were a video) and videos."""
    images: list[tuple[Path, Frame | None]] = []
    videos: list[Path] = []
    for source in sources:
        if source.is_dir():
            inside = sorted(source.iterdir())
            pictures = [path for path in inside if path.suffix.lower() in IMAGE_SUFFIXES]
            films = [path for path in inside if is_video(path)]
            if not pictures and not films:
                raise InputError(
                    f"the folder {source} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}) "
                    f"and no video"
                )
            images += [(path, Frame(source, index)) for index, path in enumerate(pictures)]
            videos += films
        elif is_video(source):
            videos.append(source)
        else:
            images.append((source, None))
    if not images and not videos:
        raise InputError("no image given")
    return images, videos


def _places(path: Path, videos: Sequence[Path], watch: Watch) -> Boxes:
    places = read_boxes(path)
    for rejected in places.rejected:
        watch.say(f"left out: {rejected.where}: {rejected.reason}")
    if len(videos) > 1 and any(box.frame is not None and not box.image for box in places.boxes):
        raise InputError(
            f"{path} gives frames by number alone, and there are {len(videos)} videos; name the video "
            f"in each row, or predict one video at a time"
        )
    return places


def _lengths(videos: Sequence[Path], job: _Job) -> Iterator[tuple[Path, int]]:
    """The number of frames of each video that can be read."""
    for video in videos:
        try:
            length = frame_count(video)
        except InputError as error:
            job.leave_out(str(error))
            continue
        named = job.places.frames_of(video) if job.places else ()
        beyond = [frame for frame in named if frame >= length]
        if beyond:
            job.leave_out(f"boxes for {len(beyond)} frames beyond the {length} of {video}")
        yield video, length


def _images(images: Sequence[tuple[Path, Frame | None]], job: _Job) -> Iterator[_Picture]:
    """The images that can be read, with their boxes."""

    def opened(path: Path) -> Image.Image | str:
        try:
            return open_image(path, upright=True)
        except InputError as error:
            return str(error)

    remaining = iter(images)
    with ThreadPoolExecutor() as pool:
        while several := list(islice(remaining, _BATCH)):
            pictures = pool.map(opened, [path for path, _ in several])
            for (path, place), image in zip(several, pictures, strict=True):
                if isinstance(image, str):
                    job.leave_out(image)
                    continue
                boxes = None
                if job.places is not None:
                    boxes = job.places.of_image(path)
                    if not boxes and place is not None:
                        boxes = job.places.of_frame(place)
                    if not boxes:
                        job.leave_out(f"{path}: no box tells where its people are")
                        continue
                yield _Picture(job.unique(safe_name(path.stem)), path, image, boxes)


def _frames(video: Path, name: str, length: int, job: _Job) -> Iterator[_Picture]:
    """The frames of a video, with their boxes; those without any are counted."""
    empty = 0
    try:
        for index, image in read_frames(video, range(length)):
            boxes = None if job.places is None else job.places.of_frame(Frame(video, index))
            empty += boxes == []
            yield _Picture(job.unique(f"{name}_{index:06d}"), video, image, boxes)
    except InputError as error:
        job.leave_out(str(error))
    if empty:
        job.leave_out(f"{video}: {empty} of {length} frames have no box")


def _chunks(pictures: Iterator[_Picture]) -> Iterator[list[_Picture]]:
    while several := list(islice(pictures, _BATCH)):
        yield several


def _predict(
    pictures: list[_Picture], job: _Job, refine: bool
) -> list[tuple[_Picture, Estimates | None]]:
    """The people of each picture, or None."""
    views = [view for row in range(len(pictures)) for view in _views(pictures, row, job)]
    if not views:
        return [(picture, None) for picture in pictures]
    crop = concatenate([view.crop[None] for view in views])
    pixels = torch.stack([view.pixels for view in views])
    estimate, keypoints, confidence = predict_crops(job.network, pixels, device=job.device)
    everyone = Estimates([view.key for view in views], estimate, crop)
    good = usable(everyone)
    for view, sound in zip(views, good.tolist(), strict=True):
        if not sound:
            job.leave_out(f"{view.key}: what the network says of it is no person")
    if not good.all():
        views = [view for view, sound in zip(views, good.tolist(), strict=True) if sound]
        everyone = everyone.select(good.nonzero()[:, 0].tolist())
        keypoints = None if keypoints is None else keypoints[good]
        confidence = None if confidence is None else confidence[good]
    if refine and views:
        everyone = _refined(everyone, keypoints, confidence, job)
    inside = [
        [index for index, view in enumerate(views) if view.picture == row]
        for row in range(len(pictures))
    ]
    return [
        (picture, everyone.select(rows) if rows else None)
        for picture, rows in zip(pictures, inside, strict=True)
    ]


def _views(pictures: list[_Picture], row: int, job: _Job) -> Iterator[_View]:
    """The people of a picture, cut out; boxes that show nothing are left out."""
    picture = pictures[row]
    width, height = picture.image.size
    crops = [(picture.name, whole_image(picture.image))]
    if picture.boxes is not None:
        crops = []
        for number, one in enumerate(picture.boxes):
            # A track may be any text, and names files.
            plain = one.track.replace("-", "").isalnum() and len(one.track.encode()) <= _TRACK
            who = one.track if plain else str(number)
            key = f"{picture.name}_p{who}"
            if is_inside(one.box, width, height):
                crops.append((key, around_box(torch.tensor(one.box))))
            else:
                job.leave_out(f"{key}: its box lies outside the image of {width} x {height} px")
    for key, crop in crops:
        try:
            pixels = to_pixels(picture.image, job.network.info.size, crop)
        except InputError as error:
            job.leave_out(f"{key}: {error}")
            continue
        # The name of an image without boxes is also that of its only person.
        name = key if picture.boxes is None else job.unique(key)
        if name != key:
            job.watch.say(f"two people are called {key}; the second becomes {name}")
        yield _View(name, row, crop, pixels)


def _refined(
    people: Estimates, keypoints: Tensor | None, confidence: Tensor | None, job: _Job
) -> Estimates:
    """Predictions drawn to the network's own heat maps."""
    if keypoints is None or confidence is None:
        raise InputError(
            "--refine needs a network with heat maps; this one was trained with auxiliary = False"
        )
    # Key points know nothing of depth; the network's body does.
    joints = joint_set(job.network.info.joints)
    depths = project_points(job.template, people.estimate, job.template.keypoints(joints))[..., 2]
    depths = depths - depths[:, joints.root_indices].mean(1, keepdim=True)
    seen = Observations(
        *no_points(len(people), keypoints), keypoints, confidence, depths, confidence, joints.name
    )
    if job.lifter is not None:
        seen = job.lifter.lift(seen)
    config = RegistrationConfig()
    estimate, quality = register(job.template, seen, people.crop, config, start=people.estimate)
    flags = tuple(flags_of(quality, people.crop))
    return Estimates(people.keys, estimate, people.crop, quality, flags)


def _drawn(picture: _Picture, people: Estimates | None, job: _Job) -> np.ndarray:
    photo = np.array(picture.image)
    if people is None:
        return photo
    return overlay(photo, job.template, people.estimate, people.crop)


def _write_image(picture: _Picture, people: Estimates, job: _Job) -> None:
    target = job.target(f"{picture.name}.png", picture.source)
    _write_people(job.out, people, job)
    save_png(target, _drawn(picture, people, job))


def _write_people(out: Path, people: Estimates, job: _Job) -> None:
    """NPZ and OBJ of each."""
    vertices = estimate_mesh(job.template, people.estimate, axes="camera")
    for row, key in enumerate(people.keys):
        one = people.select([row])
        write_npz(out / f"{key}.npz", one, job.template, meshes=True)
        facts = mesh_comments(one, job.template, "camera")
        write_obj(
            out / f"{key}.obj", vertices[row], job.template.faces, axes="camera", comments=facts
        )


def last_network(run: Path) -> Path:
    """The network file itself, or that of the last finished round of a run folder."""
    if run.is_file():
        return run
    networks = sorted(run.glob("round-*/network.safetensors"), key=_round_number)
    if not networks:
        raise InputError(f"{run} holds no trained network; give a run folder with a finished round")
    return networks[-1]


def _round_number(path: Path) -> int:
    digits = path.parent.name.removeprefix("round-")
    return int(digits) if digits.isdigit() else 0
