"""People that DensePose saw in an image: their pixels with labels, and the IUV images that hold them.

The files are those of Facebook's DensePose tools: `*_IUV.png` holds part, U and V of every pixel,
`*_INDS.png` the number of the person it belongs to. Other formats are in `densepose_labels` and
`densepose_dumps`; all of them give the same `DetectedPerson`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

from deformlearn.body import BodyTemplate
from deformlearn.charts import Charts
from deformlearn.data.shards import Row
from deformlearn.densepose_charts import PARTS, densepose_to_template
from deformlearn.errors import InputError
from deformlearn.skeleton import joint_set

MIN_PIXELS = 1500
"""A person of fewer labelled pixels is too small to be registered."""

_MARGIN = 0.1
"""A crop is this much larger than the longer side of the person's box."""

_FEW_PARTS = 12
"""A person of whom fewer parts are seen is called partly hidden (a whole one shows 14 to 22)."""


@dataclass(frozen=True)
class DetectedPerson:
    """One person of an image as DensePose saw it, whatever file says so."""

    index: int
    """Rank by ascending detection score among everyone of the image, as INDS images count."""
    pixels: Int[np.ndarray, "n 2"]
    """x and y of the person's pixels; the centre of pixel (x, y) is (x + 0.5, y + 0.5)."""
    part: Int[np.ndarray, "n"]
    """1..24."""
    u: Float[np.ndarray, "n"]
    v: Float[np.ndarray, "n"]
    weights: Float[np.ndarray, "n"]
    """In (0, 1]; 1 where the file holds no confidences."""
    score: float | None
    """Of the detection; None where the file holds none."""
    usable: bool
    """Large enough to be registered."""
    notes: tuple[str, ...] = ()
    """What a user should know: too small, cut by the frame, partly hidden."""

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom (source pixels)."""
        left, top = self.pixels.min(0).astype(float).tolist()
        right, bottom = (self.pixels.max(0) + 1.0).tolist()
        return left, top, right, bottom


def person_of_labels(
    index: int,
    score: float | None,
    pixels: Int[np.ndarray, "n 2"],
    labels: tuple[
        Int[np.ndarray, "n"],
        Float[np.ndarray, "n"],
        Float[np.ndarray, "n"],
        Float[np.ndarray, "n"],
    ],
    size: tuple[int, int] | None,
    min_pixels: int,
) -> DetectedPerson:
    """A person of their pixels and `labels` (part, u, v, weights), with what a user should know.

    `size` is the image's (width, height), None where it is not known.
    """
    notes = []
    part, u, v, weights = labels
    usable = len(pixels) > min_pixels
    if not usable:
        notes.append(f"skipped: {len(pixels)} pixels, more than {min_pixels} are needed")
    if size is not None and ((pixels.min(0) == 0).any() or (pixels.max(0) + 1 == size).any()):
        notes.append("cut by the frame")
    seen = len(np.unique(part))
    if seen < _FEW_PARTS:
        notes.append(f"partly hidden: {seen} of {PARTS} parts are seen")
    return DetectedPerson(index, pixels, part, u, v, weights, score, usable, tuple(notes))


def read_iuv(
    iuv_png: Path,
    inds_png: Path | None,
    size: tuple[int, int] | None,
    *,
    min_pixels: int = MIN_PIXELS,
) -> list[DetectedPerson]:
    """Every person of an IUV image, by ascending detection score; some may not be usable.

    IUV files are written by OpenCV (blue first), so the part is the third channel as read here; files
    with the part first are told apart by its values. In INDS the lowest-scored person has the
    number 0, as background has: they are the pixels with a part but number 0. Without INDS all
    pixels are one person. `size` is the photo's (see `photo_size`; None leaves it unchecked).
    People of at most `min_pixels` pixels are returned with `usable` false.

    Unreadable, mismatched or ambiguous files and images without people are InputErrors.
    """
    iuv = _read_image(iuv_png, "IUV", "RGB")
    _require_size(iuv_png, iuv, size)
    part_channel = _part_channel(iuv, iuv_png)
    part, u, v = iuv[..., part_channel], iuv[..., 1], iuv[..., 2 - part_channel]
    if inds_png is None:
        person = np.zeros_like(part)
    else:
        person = _read_image(inds_png, "INDS", "L")
        _require_size(inds_png, person, iuv.shape[1::-1])

    people = []
    for index in np.unique(person[part > 0]).tolist():
        y, x = np.nonzero((part > 0) & (person == index))
        labels = (
            part[y, x].astype(np.int64), u[y, x] / 255.0, v[y, x] / 255.0, np.ones(len(x)),
        )  # fmt: skip
        pixels = np.stack([x, y], -1)
        people.append(person_of_labels(index, None, pixels, labels, iuv.shape[1::-1], min_pixels))
    return people


def channel_order(iuv_png: Path) -> str:
    """How the channels of an IUV image were read: `V, U, I` (as OpenCV writes it) or `I, U, V`."""
    iuv = _read_image(iuv_png, "IUV", "RGB")
    return "V, U, I" if _part_channel(iuv, iuv_png) == 2 else "I, U, V"


def draw_pixels(person: DetectedPerson, points: int, seed: int) -> Int[np.ndarray, "chosen"]:
    """Up to `points` of a person's pixels, in their order.

    A pixel is drawn with a chance of 1 / sqrt(pixels of its part): small parts get more points than
    their area, large parts still the most. The same seed draws the same pixels of the same person,
    whatever format they come from and whoever else is in the image.
    """
    chance = 1 / np.sqrt(np.bincount(person.part)[person.part])
    count = min(points, len(person.part))
    place = [int(side) for side in person.box]
    random = np.random.default_rng([seed, len(person.part), *place])
    chosen = random.choice(len(chance), count, replace=False, p=chance / chance.sum())
    chosen.sort()
    return chosen


def people_rows(
    people: Sequence[DetectedPerson],
    photo: Path,
    charts: Charts,
    template: BodyTemplate,
    *,
    points: int = 400,
    seed: int = 0,
) -> list[Row]:
    """One row for each usable person: some of its pixels and where they lie on the template.

    The pixels are those of `draw_pixels`. Key points are of the set `coco17`, all missing.
    """
    keypoints = len(joint_set("coco17"))
    rows = []
    for person in people:
        if not person.usable:
            continue
        chosen = draw_pixels(person, points, seed)
        faces, barycentric, ok = densepose_to_template(
            charts, template, person.part[chosen], person.u[chosen], person.v[chosen]
        )
        left, top, right, bottom = person.box
        half = max(right - left, bottom - top) / 2 * (1 + _MARGIN)
        rows.append(
            Row(
                key=f"{Path(photo).stem}-{person.index:02d}",
                crop=((left + right) / 2, (top + bottom) / 2, half),
                points=person.pixels[chosen][ok] + 0.5,
                faces=faces[ok],
                barycentric=barycentric[ok],
                point_weights=person.weights[chosen][ok],
                keypoints=np.zeros((keypoints, 2)),
                keypoint_weights=np.zeros(keypoints),
                image_path=str(Path(photo).absolute()),
            )
        )
    return rows


def halve_points(row: Row, seed: int) -> tuple[Row, Row]:
    """The row with one random half of its points, and with the other half."""
    order = np.random.default_rng(seed).permutation(len(row.points))
    first, second = (np.sort(half) for half in np.array_split(order, 2))
    return _with_points(row, first), _with_points(row, second)


def _with_points(row: Row, chosen: Int[np.ndarray, "n"]) -> Row:
    return replace(
        row,
        points=row.points[chosen],
        faces=row.faces[chosen],
        barycentric=row.barycentric[chosen],
        point_weights=row.point_weights[chosen],
    )


def photo_size(photo: Path) -> tuple[int, int]:
    """Width and height of a photograph that can be read to its end and stands upright."""
    image = _open_image(photo, "photo")
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        raise InputError(
            f"photo {photo} is stored turned (EXIF orientation), so its pixels and DensePose's may "
            f"not match; save it upright without the tag and run DensePose on that"
        )
    return image.size


def part_channels(iuv: UInt8[np.ndarray, "h w 3"]) -> list[int]:
    """The channels that can hold parts: the third as OpenCV writes it, or the first."""
    highest = iuv.max((0, 1)).tolist()
    marked = iuv.any(-1)
    return [
        channel
        for channel in (2, 0)
        if highest[channel] <= PARTS and (iuv[..., channel] > 0)[marked].all()
    ]


def _part_channel(iuv: UInt8[np.ndarray, "h w 3"], path: Path) -> int:
    highest = iuv.max((0, 1)).tolist()
    if max(highest) == 0:
        raise InputError(f"{path} shows no person: every pixel is background")
    could_be = part_channels(iuv)
    if not could_be:
        raise InputError(
            f"{path} is not an IUV image: neither its first nor its third channel holds part numbers "
            f"1..{PARTS} on the people and 0 elsewhere (the channels go up to {highest}); "
            f"give DensePose's own PNG, not a JPEG and not a visualisation"
        )
    if len(could_be) == 2:
        raise InputError(
            f"{path} is ambiguous: its first and its third channel could both be part numbers; "
            f"write it again as OpenCV does (blue = part, green = U, red = V)"
        )
    return could_be[0]


def _read_image(path: Path, what: str, mode: str) -> UInt8[np.ndarray, "h w ..."]:
    image = _open_image(path, what)
    if image.mode != mode:
        wanted = "three 8-bit channels" if mode == "RGB" else "one 8-bit channel"
        raise InputError(
            f"{what} image {path} has mode {image.mode}; wanted {wanted} as DensePose writes it"
        )
    return np.asarray(image)


def _open_image(path: Path, what: str) -> Image.Image:
    """An image decoded to its end; missing, foreign and truncated files are InputErrors."""
    if Path(path).is_dir():
        raise InputError(
            f"{what} image {path} is a folder; give one file (`deformlearn import densepose` takes folders)"
        )
    if not Path(path).is_file():
        raise InputError(f"{what} image {path} does not exist")
    return decoded(Path(path).read_bytes(), f"{what} image {path}")


def decoded(content: bytes, name: str, size: tuple[int, int] | None = None) -> Image.Image:
    """An encoded image, decoded to its end; `name` is what a message calls it.

    With `size`, an image of another width and height is refused before its pixels are decoded.
    """
    try:
        image = Image.open(io.BytesIO(content))
        if size is not None and image.size != size:
            raise InputError(f"{name} is {image.size}, but {size} is written beside it")
        image.load()
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"{name} is not an image file") from error
    # Pillow's readers fail in many ways on damaged files (also struct.error, zlib.error, IndexError).
    except Exception as error:
        raise InputError(f"{name} cannot be read to its end ({error})") from error
    return image


def _require_size(
    path: Path, image: UInt8[np.ndarray, "h w ..."], size: tuple[int, int] | None
) -> None:
    if size is not None and image.shape[1::-1] != tuple(size):
        raise InputError(
            f"{path} is {image.shape[1]}x{image.shape[0]} pixels but the photo is "
            f"{size[0]}x{size[1]}; give the photo that DensePose was run on, at the same size"
        )
