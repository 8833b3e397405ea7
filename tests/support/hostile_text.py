"""Text that would run as a script where a page shows it unescaped, and what a browser makes of a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html.parser import HTMLParser


def hostile(place: str) -> str:
    """Markup in both kinds of quotes, told apart by `place`; it would also end a script, an attribute or a comment."""
    return (
        f"""{place} "'--></script><script>alert('{place}')</script><img src=x onerror="alert(1)">&lt;b&gt;"""
    )


class Parsed(HTMLParser):
    """A page as a browser reads it.

    Attributes:
        tags: names of all elements.
        handlers: attributes that would run a script.
        text: what is shown, and the attributes that are read out.
        scripts: contents of the script elements.
    """

    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self.scripts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.handlers += [name for name, value in attributes if name.startswith("on")]
        self.text += "".join(value for name, value in attributes if name in ("aria-label", "alt") and value)

    def handle_data(self, data):
        if self.cdata_elem == "script":
            self.scripts.append(data)
        else:
            self.text += data

    def json(self) -> dict:
        """The page's block of data."""
        return json.loads(next(text for text in self.scripts if text.startswith("{")))


def assert_shown_as_text(page: str, places: Sequence[str], scripts: int = 0, images: int = 0) -> Parsed:
    """Every `hostile(place)` is shown to the letter, and the page has no elements but its own."""
    parsed = Parsed(page)
    assert parsed.handlers == []
    assert (parsed.tags.count("script"), parsed.tags.count("img")) == (scripts, images)
    for place in places:
        assert hostile(place) in parsed.text, place
    return parsed
