"""The command that shows people and templates in a browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import tyro

from deformlearn.config import DemoConfig


def commands(default: DemoConfig) -> dict[str, Callable]:
    """Each command by name; none has numbers of the preset."""
    del default

    def view(
        path: tyro.conf.Positional[str],
        people: tuple[str, ...] = (),
        data: str | None = None,
        images: Path | None = None,
        template: str | None = None,
        html: Path | None = None,
        screenshot: Path | None = None,
        host: str = "127.0.0.1",
        port: int = 8080,
        browser: bool = True,
        dark: bool = False,
    ) -> None:
        """Look at people, labels or a template in the browser; turn them, walk through the rounds.

        Nothing is sent to any other host. docs/view.md shows what is to be seen and which keys there are.

        Args:
            path: Run folder, estimates file (or its folder), data set folder, or template (anny, a file).
            people: Whom to begin with or to write: keys, numbers from 0, ranges as 10-19 (default: worst).
            data: Data set of the people, where it is not where the run says.
            images: Pictures or video (a file, or a folder of them) that estimates of `predict` are of.
            template: Rigged human they were made with (default: anny).
            html: Write one self-contained page of these people instead, to be shared.
            screenshot: Write a picture (png) of the first of them instead; needs Chromium, Chrome or Edge.
            host: Address to serve at; another than 127.0.0.1 lets others on the network look too.
            port: Port to serve at; 0 finds a free one.
            browser: Open the browser.
            dark: Dark background.

        """
        from deformlearn.viewer import command

        command.view(
            path, data=data, images=images, template=template, html=html, screenshot=screenshot,
            people=list(people), host=host, port=port, open_browser=browser, dark=dark,
        )  # fmt: skip

    return {"view": view}
