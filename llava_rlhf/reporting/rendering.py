"""Template, style and scripts → one HTML text that loads nothing from outside. Every report is made by it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

STYLE = "report.css"
SCRIPTS = ("elements.js", "charts.js", "zoom.js")  # of every report, in this order


def render(template: str, data: Mapping[str, Any], scripts: Sequence[str] = (), **values: Any) -> str:
    """HTML text.

    Args:
        template: ROOM/FILE of a template that extends `reporting/base.html.jinja`.
        data: what the scripts read; `figures` must be among it.
        scripts: files of this room, after those of every report.
        values: what the template and the frame want.
    """
    script, style = "\n".join(_asset(name) for name in (*SCRIPTS, *scripts)), _asset(STYLE)
    written = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    page = (
        _environment()
        .get_template(template)
        .render(
            data=data,
            script=script,
            style=style,
            policy=_content_policy(script, style),
            written=written,
            **values,
        )
    )
    # JSON can spell half a surrogate pair, which no file can hold.
    return page.encode("utf-8", "backslashreplace").decode("utf-8")


class Figures:
    """The figures of a page: each is data of its script, and stands in its text by its number."""

    def __init__(self) -> None:
        self.all: list[Mapping[str, Any]] = []

    def add(self, figure: Mapping[str, Any]) -> int:
        """The number of a new figure."""
        self.all.append(figure)
        return len(self.all) - 1


def _content_policy(script: str, style: str) -> str:
    """What the page may load: pictures inside it, this script and this style; nothing over a network."""
    sources = "; ".join(
        f"{kind}-src '{_digest(text)}'" for kind, text in (("script", script), ("style", style))
    )
    return f"default-src 'none'; img-src data:; {sources}; base-uri 'none'; form-action 'none'"


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _asset(name: str) -> str:
    return files("llava_rlhf.reporting").joinpath(name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("llava_rlhf", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
