"""One sitting at the annotation page: the images, their marks, and the answers to the page's requests.

Every method takes and returns plain data (what json can say); what cannot be meant is an InputError.
Requests come from several threads; those that change something run one at a time.
"""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from deformlearn.annotate.archive import Archive
from deformlearn.annotate.guess import ENOUGH, Fit, Guesser
from deformlearn.annotate.labels import is_enough
from deformlearn.annotate.marks import (
    Bounds,
    ImageMarks,
    PersonMarks,
    edited,
    finite,
    json_object,
    surface_point,
)
from deformlearn.annotate.photos import Photo, encoded
from deformlearn.annotate.view import POSES, BodyPanel, Picked, View
from deformlearn.body import BodyTemplate
from deformlearn.data.soundness import Rejected
from deformlearn.errors import InputError
from deformlearn.skeleton import joint_set

_VIEW_NUMBERS = ("yaw", "pitch", "zoom", "x", "y")
_MOST_POINTS = 6000

_REMEMBERED = 500
"""Steps back that are kept for each image, for as long as the server runs."""


class Session:
    """What the server keeps between requests."""

    def __init__(
        self,
        template: BodyTemplate,
        archive: Archive,
        photos: Sequence[Photo],
        skipped: Sequence[Rejected],
    ) -> None:
        self._archive = archive
        self._photos = photos
        self._skipped = skipped
        self._joints = joint_set(archive.info.joints)
        self._panel = BodyPanel(template)
        self._guesser = Guesser(template, archive.info)
        self._marks = archive.open(photos)
        self._undone: dict[str, list[ImageMarks]] = {}
        self._done: dict[str, list[ImageMarks]] = {}
        self._lock = threading.Lock()

    @property
    def counts(self) -> tuple[int, int]:
        """How many people and images are annotated so far."""
        people = [sum(map(is_enough, marks.people)) for marks in self._marks.values()]
        return sum(people), sum(count > 0 for count in people)

    def overview(self) -> dict[str, Any]:
        """What the page needs once: images, joints, poses, and which images were left out."""
        return {
            "template": self._archive.info.template,
            "out": str(self._archive.folder.absolute()),
            "joints": list(self._joints.names),
            "mirror": list(self._joints.mirror),
            "poses": list(POSES),
            "enough": ENOUGH,
            "images": [
                {
                    "name": photo.name,
                    "width": photo.width,
                    "height": photo.height,
                    "upright": photo.upright,
                    "people": self._ready(photo),
                }
                for photo in self._photos
            ],
            "skipped": [{"where": one.where, "reason": one.reason} for one in self._skipped],
        }

    def photo(self, number: int) -> tuple[str, bytes]:
        """Media type and bytes of an image."""
        return encoded(self._photo(number))

    def image(self, number: int) -> dict[str, Any]:
        """Everything set on one image."""
        photo = self._photo(number)
        with self._lock:
            return self._state(photo)

    def edit(self, number: int, request: Any) -> dict[str, Any]:
        """Change one image's marks, save them, and return what is now set on it."""
        photo = self._photo(number)
        with self._lock:
            old = self._marks_of(photo)
            done = self._done.setdefault(photo.name, [])
            undone = self._undone.setdefault(photo.name, [])
            name = request.get("edit") if isinstance(request, Mapping) else None
            if name in ("undo", "redo"):
                source, target = (done, undone) if name == "undo" else (undone, done)
                if not source:
                    raise InputError(f"nothing to {name}")
                self._keep(photo, source[-1])
                source.pop()
                target.append(old)
            else:
                self._keep(photo, edited(old, request, self._archive.bounds(photo)))
                done.append(old)
                del done[:-_REMEMBERED]
                undone.clear()
            return self._state(photo)

    def body(self, request: Any) -> dict[str, Any]:
        """The body as a picture, and where the surface points `points` and the key points are on it.

        A point is its place in the panel, whether it is in sight, and yaw and pitch that show it.
        """
        view = view_of(request)
        coarse = bool(request.get("coarse"))
        wanted = request.get("points", [])
        if not isinstance(wanted, list) or len(wanted) > _MOST_POINTS:
            raise InputError(f"wanted a list of at most {_MOST_POINTS} points")
        # Image size does not matter to a surface point.
        bounds = Bounds(0, 0, len(self._panel.template.faces), 0)
        points = [surface_point(point, bounds) for point in wanted]
        faces = torch.tensor([face for face, _ in points], dtype=torch.long)
        blend = torch.tensor([weights for _, weights in points]).reshape(-1, 3)
        places, seen = self._panel.locate(view, faces, blend)
        return {
            "picture": _data_url(self._panel.draw(view, coarse=coarse)),
            "points": [
                [*place, one, *self._panel.towards(view.pose, Picked(*point))]
                for place, one, point in zip(places.tolist(), seen, points, strict=True)
            ],
            "keypoints": self._panel.keypoints(view, self._joints).tolist(),
            "pixels_per_metre": self._panel.pixels_per_metre(view),
        }

    def pick(self, request: Any) -> dict[str, Any]:
        """The surface point at a place of the body's panel; `face` is null beside the body."""
        view = view_of(request)
        at = finite(request, "at_x"), finite(request, "at_y")
        return self._point(self._panel.pick(view, *at))

    def suggest(self, number: int, request: Any) -> dict[str, Any]:
        """Where a pixel probably lies on the body, and a view that shows it; `face` may be null."""
        fit = self._fit(number, request)
        if fit is None:
            return {"face": None}
        point = self._guesser.point(fit, finite(request, "x"), finite(request, "y"))
        answer = self._point(point)
        if point is not None:
            pose = request.get("pose")
            yaw, pitch = self._panel.towards(pose if pose in POSES else POSES[0], point)
            answer |= {"yaw": yaw, "pitch": pitch}
        return answer

    def overlay(self, number: int, request: Any) -> dict[str, Any]:
        """The fitted body as a picture over the photo; `picture` is null where too little is set."""
        fit = self._fit(number, request)
        if fit is None:
            return {"picture": None}
        picture, square = self._guesser.picture(fit)
        return {
            "picture": _data_url(picture),
            "square": list(square),
            "distance_px": fit.distance_px,
        }

    def _fit(self, number: int, request: Any) -> Fit | None:
        with self._lock:
            person = self._person(self._photo(number), request)
        return self._guesser.fit(person)

    def _person(self, photo: Photo, request: Any) -> PersonMarks:
        number = finite(json_object(request, "a request"), "person")
        return self._marks_of(photo).person(int(number))

    def _keep(self, photo: Photo, marks: ImageMarks) -> None:
        # Saved first: what is not on disk is never shown.
        self._archive.save(self._photos, photo, marks)
        self._marks[photo.name] = marks

    def _state(self, photo: Photo) -> dict[str, Any]:
        marks = self._marks_of(photo).as_json()
        for person in marks["people"]:
            for pair in person["pairs"]:
                pair["part"] = self._panel.part(Picked(pair["face"], pair["barycentric"]))
        return {
            **marks,
            "can_undo": bool(self._done.get(photo.name)),
            "can_redo": bool(self._undone.get(photo.name)),
            "ready": self._ready(photo),
        }

    def _ready(self, photo: Photo) -> int:
        """How many people of an image are in the data set."""
        marks = self._marks.get(photo.name)
        return sum(map(is_enough, marks.people)) if marks else 0

    def _marks_of(self, photo: Photo) -> ImageMarks:
        return self._marks.get(photo.name) or ImageMarks.empty(self._archive.bounds(photo))

    def _photo(self, number: int) -> Photo:
        if not 0 <= number < len(self._photos):
            raise InputError(f"there is no image {number}; there are {len(self._photos)}")
        return self._photos[number]

    def _point(self, point: Picked | None) -> dict[str, Any]:
        if point is None:
            return {"face": None}
        return {
            "face": point.face,
            "barycentric": list(point.barycentric),
            "part": self._panel.part(point),
        }


def view_of(request: Any) -> View:
    """The view a request asks for."""
    given = json_object(request, "a view")
    numbers = {name: finite(given, name) for name in _VIEW_NUMBERS if name in given}
    width, height = finite(given, "width"), finite(given, "height")
    pose = given.get("pose", POSES[0])
    if not isinstance(pose, str):
        raise InputError("wanted the name of a pose")
    return View(int(width), int(height), **numbers, pose=pose)


def _data_url(picture: UInt8[np.ndarray, "h w 4"]) -> str:
    buffer = io.BytesIO()
    # A slow computer, a fast line: hardly any compression.
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "png", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
