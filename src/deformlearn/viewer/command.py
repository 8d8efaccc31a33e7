"""`deformlearn view`: find out what a path is, then serve it, or write it as a page or a picture."""

from __future__ import annotations

import contextlib
import webbrowser
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import viser
from rich.console import Console

from deformlearn import local_pages
from deformlearn.errors import InputError
from deformlearn.exports.people import rows_of
from deformlearn.viewer.canvas import served
from deformlearn.viewer.page import write_page
from deformlearn.viewer.people_window import PeopleWindow
from deformlearn.viewer.roll import Choice
from deformlearn.viewer.screenshot import take_screenshot
from deformlearn.viewer.source import Source, open_source
from deformlearn.viewer.template_window import TemplateWindow

_PAGE = 6
"""People on a page where nobody is named."""


@contextlib.contextmanager
def serving(
    source: Source, *, host: str = "127.0.0.1", port: int = 8080, dark: bool = False
) -> Iterator[tuple[viser.ViserServer, PeopleWindow | TemplateWindow]]:
    """A running viewer, stopped at the end. A port in use is an InputError."""
    title = source.template.name if source.found.kind == "template" else source.found.path.name
    with served(host, port, title, dark=dark) as server:
        if source.found.kind == "template":
            yield server, TemplateWindow(server, source.template)
        else:
            yield server, PeopleWindow(server, source)


def view(
    path: str,
    *,
    data: str | None = None,
    images: Path | None = None,
    template: str | None = None,
    html: Path | None = None,
    screenshot: Path | None = None,
    people: list[str] | None = None,
    host: str = "127.0.0.1",
    port: int = 8080,
    open_browser: bool = True,
    dark: bool = False,
) -> None:
    """Show a run, estimates, a data set or a template in the browser until the user stops it (Ctrl-C).

    With `html` or `screenshot` a page or a picture of the chosen `people` is written instead. Everything
    that cannot be shown is an InputError with the reason.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(line: str) -> None:
        console.print(line, markup=False)

    for target, ending in ((html, ".html"), (screenshot, ".png")):
        if target is not None and target.suffix.lower() != ending:
            raise InputError(
                f"{target} would hold {ending[1:]}; give a name that ends with {ending}"
            )
    source = open_source(path, data=data, images=images, template=template)
    for note in source.found.notes:
        say(f"note: {note}")
    if html is not None or screenshot is not None:
        numbers = _chosen(source, people)
        if html is not None:
            size = write_page(html, source, numbers, dark=dark)
            say(f"written: {html.resolve()} ({size / 1e6:.1f} MB)")
        if screenshot is not None:
            take_screenshot(screenshot, source, numbers, dark=dark)
            say(f"written: {screenshot.resolve()}")
        return
    with serving(source, host=host, port=port, dark=dark) as (server, window):
        if people and isinstance(window, PeopleWindow):
            window.show(replace(window.shown, number=_chosen(source, people)[0]))
        for line in welcome(host, server.get_port()):
            say(line)
        if (
            open_browser
            and local_pages.has_display()
            and not webbrowser.open(local_pages.address(host, server.get_port()))
        ):
            say("no browser could be opened; open the address yourself")
        local_pages.wait_for_interrupt()


def _chosen(source: Source, people: list[str] | None) -> list[int]:
    """Places in the roll of the people who are named; of nobody in particular, the worst fits."""
    if source.found.kind == "template":
        return []
    if not people:
        return source.roll.choose(Choice())[:_PAGE].tolist()
    return rows_of(source.roll.keys, people, source.found.path)


def welcome(host: str, port: int) -> list[str]:
    """What to tell someone who started a viewer."""
    lines = [f"Look at it in the browser:  {local_pages.address(host, port)}", "Stop with Ctrl-C."]
    if not local_pages.has_display():
        lines.append(local_pages.tunnel(port))
    return lines
