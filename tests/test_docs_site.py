"""The site as its reader gets it: built with warnings as errors, whole, and asking no outside host."""

from __future__ import annotations

import functools
import http.server
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
LOADED = {
    "img": "src",
    "script": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "link": "href",
}
"""What a page loads by itself, as opposed to what a reader may click."""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site, from a copy of everything it is made of."""
    pytest.importorskip("zensical")
    project = tmp_path_factory.mktemp("project")
    for name in ("docs", "src", "examples"):
        shutil.copytree(
            ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    for name in ("zensical.toml", "CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, project)
    for words in (
        [project / "docs" / "make_pages.py"],
        ["-m", "zensical", "build", "--strict", "--clean"],
    ):
        done = subprocess.run(
            [sys.executable, *words], cwd=project, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr[-5000:]
    return project / "build" / "site"


class Page(HTMLParser):
    """What a page loads, and what it links to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if "id" in given:
            self.anchors.add(given["id"])
        rel = given.get("rel") or ""
        if tag == "link" and rel in ("canonical", "next", "prev"):
            return
        if (target := given.get(LOADED.get(tag, ""))) is not None:
            self.loaded.append(target)
        if tag == "a" and given.get("href"):
            self.linked.append(given["href"])


def pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


def titles(entries) -> list[str]:
    """Files of the navigation."""
    found = []
    for entry in entries:
        ((_, target),) = entry.items()
        found += titles(target) if isinstance(target, list) else [target]
    return found


def test_every_page_of_the_navigation_is_built_and_every_page_can_be_reached(site):
    listed = titles(SETTINGS["nav"])
    assert len(set(listed)) == len(listed)
    for name in listed:
        assert (site / name).with_suffix(".html").exists(), name
    known = {path.relative_to(site).as_posix() for path in pages(site)}
    reached = {"404.html"} | {name.removesuffix(".md") + ".html" for name in listed}
    decisions = {name for name in known if name.startswith("decisions/")}
    assert known - reached == decisions, "a page is neither in the navigation nor a decision note"
    index = Page(site / "generated" / "decisions.html").linked
    for name in decisions:
        assert f"../{name}" in index


def test_no_page_loads_anything_from_an_outside_host(site):
    for path in pages(site):
        for target in Page(path).loaded:
            assert not urlparse(target).netloc, f"{path.name} loads {target}"
    for sheet in site.rglob("*.css"):
        content = sheet.read_text(encoding="utf-8")
        assert not re.search(r"(?:@import|url\()\s*['\"]?(?:https?:)?//", content), sheet.name


def test_every_picture_style_and_link_of_a_page_is_there(site):
    known = {path: Page(path) for path in pages(site)}
    for path, page in known.items():
        if path.name == "404.html":  # shown at any address, it refers to the site's root
            continue
        for target in page.loaded + page.linked:
            parts = urlparse(target)
            if parts.scheme or parts.netloc:
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            file = file / "index.html" if file.is_dir() else file
            assert file.exists(), f"{path.name} refers to {target}"
            if parts.fragment and file in known:
                assert unquote(parts.fragment) in known[file].anchors, f"{path.name}: {target}"


def test_lists_and_tables_are_not_run_into_the_text(site):
    """Python-Markdown wants an empty line before them, other readers do not."""
    for path in pages(site):
        for text in re.findall(r"<p>(.*?)</p>", path.read_text(encoding="utf-8"), re.DOTALL):
            assert not re.search(r"^\s*(?:[-*+] |\d+\. |\|)", text, re.MULTILINE), (path.name, text)


def test_pictures_have_words_for_those_who_do_not_see_them():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for words in re.findall(r"!\[(.*?)\]\(", page.read_text(encoding="utf-8")):
            assert len(words.split()) >= 3, f"{page.name}: {words!r}"


def test_the_commands_page_has_every_command_and_option(site):
    from deformlearn import cli
    from deformlearn.config import PRESETS

    text = (site / "generated" / "commands.html").read_text(encoding="utf-8")
    default = PRESETS["laptop"]
    for name in cli.commands(default):
        assert f">{name}<" in text
    for group, (made, _) in cli.GROUPS.items():
        for name in made(default):
            assert f">{group} {name}<" in text
    for option in (
        "--registration.dense-weight",
        "--points.scale",
        "--densepose PATH",
        "--no-browser",
    ):
        assert option in text


def test_the_python_page_has_every_public_name(site):
    import deformlearn

    anchors = Page(site / "generated" / "python.html").anchors
    for name in set(deformlearn.__all__) - {"__version__"}:
        found = getattr(deformlearn, name)
        assert f"{found.__module__}.{found.__qualname__}" in anchors, name


@pytest.fixture(scope="module")
def address(site):
    """The site, served to this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_in_a_browser_pages_ask_nobody_else_fit_and_can_be_searched(
    browser, address, width, height
):
    asked, broken = [], []
    page = browser.new_page(viewport={"width": width, "height": height})
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: broken.append(str(error)))
    for name in (
        "index", "start", "method", "generated/commands", "generated/python", "results",
    ):  # fmt: skip
        page.goto(f"{address}/{name}.html", wait_until="networkidle")
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width + 1, f"{name} is {wide} px wide on a screen of {width}"
    page.keyboard.press("/")
    page.keyboard.type("geman", delay=20)
    page.wait_for_function("document.body.innerText.includes('Geman')", timeout=20_000)
    page.close()
    assert not broken
    assert asked
    assert all(url.startswith((address, "data:", "blob:")) for url in asked), asked
