"""A page as one file that fetches nothing: style, script, charts, pictures and data are in it."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from deformlearn.reports.tables import millimetres

if TYPE_CHECKING:
    from jinja2 import Environment


def rendered(template: str, **contents: Any) -> bytes:
    """A page made from one of the templates in assets/report."""
    from markupsafe import Markup

    script = _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = (
        _environment()
        .get_template(template)
        .render(
            style=Markup(_asset("page.css")),
            script=Markup(script),
            script_hash=f"sha256-{digest}",
            **contents,
        )
    )
    return page.encode()


def signed(value: float, digits: int = 1) -> str:
    """A difference with its sign; none where it rounds to zero."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def duration(seconds: float) -> str:
    """A time to read."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{seconds:.1f} s" if seconds < 120 else f"{minutes} min"


@lru_cache(1)
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FunctionLoader(_asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "mm": millimetres,
        "time": duration,
        "fixed": lambda value, digits: f"{value:.{digits}f}",
        "signed": signed,
        "share": lambda value, chart: chart.share(value),
        # Only for what was made to stand in a page: our own charts and json.
        "raw": Markup,
    }
    return environment


def _asset(name: str) -> str:
    return (resources.files("deformlearn") / "assets" / "report" / name).read_text("utf-8")
