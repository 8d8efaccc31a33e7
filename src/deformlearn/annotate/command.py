"""`deformlearn annotate`: start the server, open the browser, and wait."""

from __future__ import annotations

import contextlib
import threading
import webbrowser
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

from deformlearn import local_pages
from deformlearn.annotate.archive import Archive
from deformlearn.annotate.labels import ChartLabels
from deformlearn.annotate.photos import find_photos
from deformlearn.annotate.server import Server
from deformlearn.annotate.session import Session
from deformlearn.body import BodyTemplate
from deformlearn.errors import InputError
from deformlearn.files import clear_parts
from deformlearn.skeleton import joint_set


def annotate(
    images: Path,
    out: Path,
    template: BodyTemplate,
    *,
    joints: str = "coco17",
    charts: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8765,
    open_browser: bool = True,
) -> None:
    """Annotate the photographs of a folder in the browser until the user stops it (Ctrl-C).

    Every change is saved to `out` at once; the same command goes on from there. `charts` is
    DensePose's UV_Processed.mat, for json labels in its charts. Folders without images, other data
    in `out`, a template without the joint set's landmarks or a port in use are InputErrors.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with serving(
        images, out, template, joints=joints, charts=charts, host=host, port=port
    ) as server:
        session = server.session
        for one in session.overview()["skipped"]:
            console.print(f"skipped {one['where']}: {one['reason']}", markup=False)
        for line in welcome(server, out):
            console.print(line, markup=False)
        if open_browser and local_pages.has_display():
            webbrowser.open(server.address)
        local_pages.wait_for_interrupt()
        people, photos = session.counts
        console.print(
            f"\n{people} people on {photos} images are in {out}; "
            f"go on with the same command, check with `deformlearn check {out}`",
            markup=False,
        )


@contextlib.contextmanager
def serving(
    images: Path,
    out: Path,
    template: BodyTemplate,
    *,
    joints: str = "coco17",
    charts: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8765,
) -> Iterator[Server]:
    """A running server, in a thread of its own, that is stopped at the end; errors as `annotate`."""
    absent = [name for name in joint_set(joints).landmarks if name not in template.landmark_names]
    if absent:
        raise InputError(
            f"the template {template.name!r} has no landmark {absent[0]} for the joint set "
            f"{joints!r}; choose another with --joints"
        )
    photos, skipped = find_photos(images, besides=out)
    archive = Archive(out, template, joints, ChartLabels.of(template, charts))
    with _alone(out, archive):
        server = Server(Session(template, archive, photos, skipped), host, port)
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.stop()
            thread.join()


def welcome(server: Server, out: Path) -> list[str]:
    """What to tell someone who started a server."""
    lines = [
        f"Annotate in the browser:  {server.address}",
        f"Every change is saved at once to {out}. Stop with Ctrl-C.",
    ]
    if not local_pages.has_display():
        lines.append(local_pages.tunnel(server.port))
    return lines


@contextlib.contextmanager
def _alone(out: Path, archive: Archive) -> Iterator[None]:
    """Keep a second server off the same folder: each would overwrite what the other saves.

    What a server left that was killed while it saved is cleared.
    """
    archive.claim()
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".annotate.lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"{out} is being annotated by another deformlearn annotate; stop that one first"
        ) from error
    except OSError as error:
        raise InputError(
            f"cannot write to {out}: {error.strerror or error}; choose another --out"
        ) from error
    try:
        clear_parts(out)
        yield
    finally:
        lock.release()
