"""A picture of one person without a window: a page drawn by whatever Chromium is installed."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deformlearn.errors import InputError
from deformlearn.files import write_atomically
from deformlearn.viewer import drawing
from deformlearn.viewer.page import Sheet, page_of, sheet_of
from deformlearn.viewer.source import Source

SIDE = 720
"""Side of each view (px)."""

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
    painted = person["bodies"][-1]["painted"]
    raw = None
    if photo is not None:
        raw = {"side": len(photo), "pixels": sheet.put(photo)}
    if painted and photo is not None:
        return {
            "side": SIDE,
            "raw": raw,
            "views": [_view(0.0, 0.0, lines=False), _beside(30.0, 8.0)],
        }
    if painted:
        turns = ((0.0, 0.0), (35.0, 8.0), (180.0, 0.0))
        return {"side": SIDE, "raw": None, "views": [_view(*one) for one in turns]}
    views = [
        _view(0.0, 0.0, body=False, lines=False),
        _view(0.0, 0.0, points=False),
        _view(0.0, 0.0, lines=True),
        _view(52.0, 10.0, extent=1.35),
        _view(90.0, 0.0, photo=False),
    ]
    return {"side": SIDE, "raw": raw, "views": views[photo is None :]}


def _view(yaw: float, pitch: float, *, extent: float = 1.03, **show: bool) -> dict[str, Any]:
    layers: dict[str, Any] = {
        "photo": True, "body": True, "start": False, "points": True, "keypoints": False,
        "lines": True, "opacity": 1.0,
    }  # fmt: skip
    return {
        "yaw": yaw, "pitch": pitch, "target": [0, 0, 0], "extent": extent, "show": layers | show,
    }  # fmt: skip


def _beside(yaw: float, pitch: float) -> dict[str, Any]:
    return _view(yaw, pitch, photo=False, lines=False) | {"target": [drawing.BESIDE, 0, 0]}


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
