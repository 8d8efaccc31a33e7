"""Our data set on disk: Parquet shards, one row a person (docs/data_format.md).

DATA/dataset.json                     what the whole set shares
DATA/observations/<split>-00000.parquet   what training may see
DATA/truth/<split>-00000.parquet          3D truth, read by evaluation only

DATA may be a local folder or a place in an object store (`files.place`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import pyarrow as pa
import torch

from deformlearn.body import BodyTemplate
from deformlearn.camera import Crop
from deformlearn.data.duplicates import hashes, repeated_elsewhere, repeats
from deformlearn.data.soundness import Rejected, described, problems
from deformlearn.data.tables import (
    column,
    facts,
    padded,
    read_batches,
    read_table,
    typed,
    write_table,
)
from deformlearn.errors import InputError
from deformlearn.files import AnyPath, naming, write_atomically
from deformlearn.observations import Observations
from deformlearn.skeleton import joint_set

FORMAT = 1

_FLOATS = pa.list_(pa.float32())
OBSERVATION_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("subject", pa.string()),
        ("action", pa.string()),
        ("camera", pa.string()),
        ("frame", pa.int32()),
        ("image", pa.binary()),
        ("image_path", pa.string()),
        ("crop_x", pa.float32()),
        ("crop_y", pa.float32()),
        ("crop_half", pa.float32()),
        ("point_x", _FLOATS),
        ("point_y", _FLOATS),
        ("point_face", pa.list_(pa.int32())),
        ("point_u", _FLOATS),
        ("point_v", _FLOATS),
        ("point_weight", _FLOATS),
        ("keypoint_x", _FLOATS),
        ("keypoint_y", _FLOATS),
        ("keypoint_weight", _FLOATS),
    ]
)
SEEN = [name for name in OBSERVATION_SCHEMA.names if name not in ("image", "image_path")]
"""Columns of everything but the pixels."""


@dataclass(frozen=True)
class DatasetInfo:
    """What every row of a data set shares."""

    template: str
    """Name of the template that faces and barycentric coordinates refer to."""
    fingerprint: str
    """Its content hash; another template is refused."""
    joints: str
    """Joint set of the key points."""
    landmarks: tuple[str, ...] = ()
    """Names of the truth's landmarks; empty without truth."""
    description: str = ""
    format: int = FORMAT


@dataclass(frozen=True)
class Row:
    """One person of one image. Coordinates are source pixels; (0, 0) is the first pixel's corner."""

    key: str
    crop: tuple[float, float, float]
    """Centre x, centre y and half side of the square crop (source px)."""
    points: np.ndarray
    """(n, 2) annotated pixels."""
    faces: np.ndarray
    """(n,) template faces."""
    barycentric: np.ndarray
    """(n, 3) coordinates on those faces."""
    point_weights: np.ndarray
    keypoints: np.ndarray
    """(k, 2) key points of the data set's joint set."""
    keypoint_weights: np.ndarray
    """(k,) confidences; 0 is missing."""
    image: bytes | None = None
    """The crop itself, encoded; or give `image_path` to the source image, relative to the data set."""
    image_path: str = ""
    subject: str = ""
    action: str = ""
    camera: str = ""
    frame: int = 0


@dataclass(frozen=True)
class People:
    """A split in memory, without its pixels."""

    keys: list[str]
    observations: Observations
    crop: Crop
    subjects: list[str]
    actions: list[str]
    cameras: list[str]
    rejected: list[Rejected] = field(default_factory=list)
    """Rows and shards that could not be used."""

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: Sequence[int]) -> People:
        """These rows, in this order."""
        names = (self.keys, self.subjects, self.actions, self.cameras)
        keys, subjects, actions, cameras = ([values[row] for row in rows] for values in names)
        index = torch.as_tensor(rows)
        observations, crop = self.observations[index], self.crop[index]
        return People(keys, observations, crop, subjects, actions, cameras, self.rejected)


def write_info(folder: AnyPath, info: DatasetInfo) -> None:
    """Write dataset.json."""
    write_atomically(folder / "dataset.json", json.dumps(asdict(info), indent=2).encode())


def read_info(folder: AnyPath) -> DatasetInfo:
    """Read dataset.json; says what a data set folder is where there is none."""
    path = folder / "dataset.json"
    with naming(path, "read"):
        content = path.read_bytes() if path.is_file() else None
    if content is None:
        raise InputError(
            f"{folder} is not a data set: it has no dataset.json. "
            f"Make one with `deformlearn synth` or see docs/data_format.md"
        )
    try:
        values = described(json.loads(content))
        info = DatasetInfo(**{**values, "landmarks": tuple(values.get("landmarks", ()))})
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is not a data set description: {error}") from error
    if info.format != FORMAT:
        raise InputError(f"{path} has format {info.format}; this version reads format {FORMAT}")
    joint_set(info.joints)
    return info


def write_rows(folder: AnyPath, split: str, shard: int, rows: Sequence[Row]) -> AnyPath:
    """Write one shard of observations; complete or not at all."""
    path = folder / "observations" / f"{split}-{shard:05d}.parquet"
    return write_table(path, table_of(rows), words=("subject", "action", "camera", "image_path"))


def people_of(rows: Sequence[Row], info: DatasetInfo) -> People:
    """Rows as people in memory, without a file in between; they must be sound."""
    return people_in(table_of(rows), info, [])


def table_of(rows: Sequence[Row]) -> pa.Table:
    """Rows as a table of the schema of observations."""
    columns: dict[str, list] = {name: [] for name in OBSERVATION_SCHEMA.names}
    for row in rows:
        values = {
            "key": row.key,
            "subject": row.subject,
            "action": row.action,
            "camera": row.camera,
            "frame": row.frame,
            "image": row.image,
            "image_path": row.image_path,
            "crop_x": row.crop[0],
            "crop_y": row.crop[1],
            "crop_half": row.crop[2],
            "point_x": row.points[:, 0],
            "point_y": row.points[:, 1],
            "point_face": row.faces,
            "point_u": row.barycentric[:, 0],
            "point_v": row.barycentric[:, 1],
            "point_weight": row.point_weights,
            "keypoint_x": row.keypoints[:, 0],
            "keypoint_y": row.keypoints[:, 1],
            "keypoint_weight": row.keypoint_weights,
        }
        for name, value in values.items():
            columns[name].append(value)
    return pa.table(columns, schema=OBSERVATION_SCHEMA)


def splits(folder: AnyPath) -> list[str]:
    """Names of the splits that have at least one shard."""
    return sorted({split_of(path) for path in (folder / "observations").glob("*.parquet")})


def shards(folder: AnyPath, kind: str, split: str) -> list[AnyPath]:
    """The shards of a split, in order; none is an error that names the splits there are."""
    found = (path for path in (folder / kind).glob("*.parquet") if split_of(path) == split)
    paths = sorted(found, key=lambda path: path.name)
    if not paths:
        raise InputError(
            f"{folder} has no {kind} for the split {split!r}; "
            f"it has {', '.join(splits(folder)) or 'no split at all'}"
        )
    return paths


def split_of(path: AnyPath) -> str:
    """The split that a shard belongs to."""
    return path.name.rsplit("-", 1)[0]


def fingerprint(folder: AnyPath, split: str) -> dict[str, dict[str, int | None]]:
    """What tells this version of a split's shards from any other: `tables.facts` by the file's name.

    Only footers are read: a thousand shards take a second.
    """
    return {path.name: facts(path) for path in shards(folder, "observations", split)}


def read_people(folder: AnyPath, split: str, template: BodyTemplate | None = None) -> People:
    """All sound people of a split, without pixels; the others are named in `rejected`.

    With a template, one that the data set was not made for is refused and faces are checked.
    A split without a single sound row is an InputError.
    """
    info = info_for(folder, template)
    found, rejected = [], {}
    for path in shards(folder, "observations", split):
        try:
            table = typed(path, read_table(path, SEEN), OBSERVATION_SCHEMA)
        except InputError as error:
            rejected[path.name] = [Rejected(path.name, str(error))]
            continue
        bad = problems(table, info.joints, None if template is None else len(template.faces))
        rejected[path.name] = [
            Rejected(f"{path.name} row {row} ({table['key'][row].as_py()})", reason)
            for row, reason in sorted(bad.items())
        ]
        good = np.setdiff1d(np.arange(len(table)), list(bad))
        found.append((path.name, good, table.take(pa.array(good)) if bad else table))
    tables = []
    again = repeats([hashes(table["key"]) for _, _, table in found])
    for (name, rows, table), places in zip(found, again, strict=True):
        rejected[name] += [
            repeated_elsewhere(name, int(rows[place]), table["key"][place].as_py())
            for place in places.tolist()
        ]
        kept = np.setdiff1d(np.arange(len(table)), places)
        tables.append(table.take(pa.array(kept)) if len(places) else table)
    left_out = [one for some in rejected.values() for one in some]
    if not any(len(table) for table in tables):
        first = f"; {left_out[0].where}: {left_out[0].reason}" if left_out else ""
        raise InputError(f"{folder} has no usable row in the split {split!r}{first}")
    return people_in(pa.concat_tables(tables), info, left_out)


def info_for(folder: AnyPath, template: BodyTemplate | None) -> DatasetInfo:
    """A data set's description; one that was made for another template is refused."""
    info = read_info(folder)
    if template is not None and info.fingerprint != template.fingerprint:
        raise InputError(
            f"{folder} was made for the template {info.template!r} ({info.fingerprint}), "
            f"not for {template.name!r} ({template.fingerprint}); load the template it names"
        )
    return info


def people_in(table: pa.Table, info: DatasetInfo, rejected: list[Rejected]) -> People:
    """The rows of a table of observations as people; they must be sound."""
    x, y = padded(table, "point_x"), padded(table, "point_y")
    u, v = padded(table, "point_u"), padded(table, "point_v")
    crop = Crop(
        torch.stack([column(table, "crop_x"), column(table, "crop_y")], -1),
        column(table, "crop_half"),
    )
    keypoints = torch.stack([padded(table, "keypoint_x"), padded(table, "keypoint_y")], -1)
    unknown = torch.zeros(keypoints.shape[:2])
    observations = Observations(
        points=crop.to_image_units(torch.stack([x, y], -1)),
        faces=padded(table, "point_face").long(),
        barycentric=torch.stack([u, v, 1 - u - v], -1),
        point_weights=padded(table, "point_weight"),
        keypoints=crop.to_image_units(keypoints),
        keypoint_weights=padded(table, "keypoint_weight"),
        depths=unknown,
        depth_weights=unknown.clone(),
        joints=info.joints,
    )
    texts = {name: table[name].to_pylist() for name in ("key", "subject", "action", "camera")}
    return People(
        texts["key"],
        observations,
        crop,
        texts["subject"],
        texts["action"],
        texts["camera"],
        rejected,
    )


def read_images(
    folder: AnyPath,
    split: str,
    keys: Sequence[str] | None = None,
    *,
    unreadable: list[str] | None = None,
) -> Iterator[tuple[str, bytes | None, str]]:
    """Key, encoded crop (or None) and image path of every person, or of those named by `keys`.

    The order is the shards'; `keys` only leaves out. A shard that cannot be read is passed over, as
    `read_people` passes over it; `unreadable` is told why.
    """
    wanted = None if keys is None else set(keys)
    for path in shards(folder, "observations", split):
        try:
            # One changed bit need not cost a thousand images: decoding shows which can be used.
            for table in read_batches(path, ["key", "image", "image_path"], verified=False):
                texts = (table[name].to_pylist() for name in table.column_names)
                for row in zip(*texts, strict=True):
                    if wanted is None or row[0] in wanted:
                        yield row
        except InputError as error:
            if unreadable is not None:
                unreadable.append(str(error))
