"""A picture of one person without a window: a page drawn by whatever Chromium is installed."""

from __future__ import annotations

import base64
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from deformlearn.errors import InputError
from deformlearn.files import write_atomically
from deformlearn.viewer import drawing
from deformlearn.viewer.page import Sheet, page_of, sheet_of
from deformlearn.viewer.source import Source

SIDE = 720
"""Side of each view (px)."""

_MARGIN = 1.03
"""Half of a view's width over that of what is in it."""

_PATIENCE = 120
"""Seconds that a browser may take."""

_NAMES = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome",
    "microsoft-edge", "microsoft-edge-stable", "msedge", "brave-browser",
)  # fmt: skip
_PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    "{PROGRAMFILES}/Google/Chrome/Application/chrome.exe",
    "{PROGRAMFILES(X86)}/Google/Chrome/Application/chrome.exe",
    "{PROGRAMFILES(X86)}/Microsoft/Edge/Application/msedge.exe",
)
"""Where browsers are that are not on the PATH."""


def take_screenshot(
    path: Path, source: Source, numbers: Sequence[int], *, dark: bool = False
) -> None:
    """Write a png of the first of these people: over the photograph, turned, and from the side.

    No browser, or one that cannot draw, is an InputError.
    """
    browser = find_browser()
    sheet = sheet_of(source, numbers[:1])
    page = page_of(sheet, dark=dark, portrait=_portrait(sheet))
    write_atomically(path, _drawn_by(browser, page))


def find_browser() -> str:
    """A browser of Chromium's family: $DEFORMLEARN_BROWSER, on the PATH, or in its usual place."""
    if own := os.environ.get("DEFORMLEARN_BROWSER"):
        if shutil.which(own) is None:
            raise InputError(f"$DEFORMLEARN_BROWSER is {own!r}, which is no program; correct it")
        return own
    on_path = (shutil.which(name) for name in _NAMES)
    installed = (_expanded(place) for place in _PLACES)
    for candidate in (*on_path, *installed):
        if candidate and Path(candidate).is_file():
            return candidate
    raise InputError(
        "a screenshot needs a browser, and no Chromium, Chrome or Edge was found; install one, "
        "or name it in $DEFORMLEARN_BROWSER, or write a page with --html"
    )


def _expanded(place: str) -> str:
    return re.sub(r"\{(.+?)\}", lambda match: os.environ.get(match[1], ""), place)


def _portrait(sheet: Sheet) -> dict[str, Any]:
    """The views of a picture, side by side."""
    photo, person = sheet.photos[0], sheet.people[0]
    # The page shows a person as the last step left it.
    after = [one for one in person["bodies"] if one["step"] == "after"]
    body = (after or person["bodies"])[-1]
    shape, painted = sheet.shape_of(body), body["painted"]
    raw = None
    if photo is not None:
        raw = {"side": len(photo), "pixels": sheet.put(photo)}
    if painted and photo is not None:
        aside = {"yaw": 30.0, "pitch": 8.0, "target": [drawing.BESIDE, 0, 0]}
        beside = _front(photo=False, lines=False) | aside
        return {"side": SIDE, "raw": raw, "views": [_front(lines=False), beside]}
    if painted:
        views = [_front(), _turned(35.0, 8.0, shape), _turned(180.0, 0.0, shape)]
        return {"side": SIDE, "raw": None, "views": views}
    behind = np.array([[x, y, person["photoDepth"]] for x in (-1, 1) for y in (-1, 1)])
    with_photo = shape if photo is None else np.concatenate([shape, behind])
    views = [
        _front(body=False, lines=False),
        _front(points=False),
        _front(),
        _turned(52.0, 10.0, with_photo),
        _turned(90.0, 0.0, shape) | {"show": _shown(photo=False)},
    ]
    return {"side": SIDE, "raw": raw, "views": views[photo is None :]}


def _front(**show: bool) -> dict[str, Any]:
    return {
        "yaw": 0.0, "pitch": 0.0, "target": [0, 0, 0], "extent": _MARGIN, "show": _shown(**show),
    }  # fmt: skip


def _shown(**show: bool) -> dict[str, Any]:
    layers: dict[str, Any] = {
        "photo": True, "body": True, "start": False, "points": True, "keypoints": False,
        "lines": True, "opacity": 1.0,
    }  # fmt: skip
    return layers | show


def _turned(yaw: float, pitch: float, seen: Float[np.ndarray, "points 3"]) -> dict[str, Any]:
    """A view from elsewhere with all that is to be seen in it, no larger than the view from the front.

    A body may well be deeper than it is wide, and a photograph stands behind it.
    """
    across, up = math.radians(yaw), math.radians(pitch)
    # As `turned` in scene.js has it.
    x = seen @ [math.cos(across), 0, -math.sin(across)]
    y = seen @ [
        -math.sin(across) * math.sin(up), math.cos(up), -math.cos(across) * math.sin(up)
    ]  # fmt: skip
    middle = float(x.max() + x.min()) / 2
    extent = _MARGIN * max(1.0, float(np.abs(x - middle).max()), float(np.abs(y).max()))
    return {
        "yaw": yaw, "pitch": pitch, "target": [0, 0, 0], "pan": [-middle / extent, 0],
        "extent": extent, "show": _shown(),
    }  # fmt: skip


def _drawn_by(browser: str, page: str) -> bytes:
    """The png that a page leaves in its document."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = Path(folder) / "page.html"
        file.write_text(page, "utf-8")
        command = [
            browser, "--headless", "--dump-dom", "--no-first-run", "--hide-scrollbars",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            # Any machine can draw without a graphics card.
            "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",
            f"--user-data-dir={Path(folder) / 'profile'}", file.as_uri(),
        ]  # fmt: skip
        if sys.platform == "linux" and os.geteuid() == 0:
            command.insert(1, "--no-sandbox")  # the sandbox refuses root
        try:
            done = subprocess.run(command, capture_output=True, timeout=_PATIENCE)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise InputError(f"{browser} could not draw the picture: {error}") from error
    document = done.stdout.decode("utf-8", "replace")
    picture = re.search(r'<pre id="picture">data:image/png;base64,([^<]+)</pre>', document)
    if picture is None:
        trouble = re.search(r'<pre id="trouble">(.*?)</pre>', document, re.DOTALL)
        errors = done.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = trouble[1] if trouble else errors[-1] if errors else "it gave nothing back"
        raise InputError(
            f"{browser} could not draw the picture ({reason}); "
            f"name another browser in $DEFORMLEARN_BROWSER, or write a page with --html"
        )
    return base64.b64decode(picture[1])
