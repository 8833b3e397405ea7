"""Questions, answers, names and comments of strangers are shown on the pages to the letter, never as markup."""

from __future__ import annotations

import pytest
from PIL import Image

from llava_rlhf.collection.judgements import Verdict
from llava_rlhf.interactive.answering_models import Answer, LoadedModels
from tests.llava_rlhf.collection.world import line, open_queue
from tests.support.hostile_text import Parsed, assert_shown_as_text, hostile

pytest.importorskip("gradio")

NAME = "<img src=x onerror=alert(1)>\"'<script>"  # of an annotator; at most 60 characters
PICTURE = "<img src=x onerror=alert(1)>.png"


@pytest.fixture
def collection(tmp_path):
    """One pair, all of it hostile, its picture's name too."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "images" / PICTURE)
    pair = line(
        0,
        id=hostile("id"),
        image=[PICTURE],
        question=hostile("question"),
        outputs=[hostile("first"), hostile("second")],
        captions=[hostile("caption")],
    )
    opened, queue = open_queue(tmp_path / "out", [pair], shared_share=1.0)
    opened.pairs.finish()
    yield opened, queue, tmp_path / "images"
    opened.close()


@pytest.fixture
def events(collection):
    """Name → what the labelling page calls on an event of that name."""
    from llava_rlhf.pages.labelling_page import labelling_page
    from llava_rlhf.pages.labelling_screen import Showable

    opened, queue, images = collection
    page = labelling_page(queue, Showable(images), opened.summarise)
    return {function.name: function.fn for function in page.fns.values() if function.fn is not None}


def test_the_pair_and_the_name_on_the_labelling_page(events):
    ((status, pair, *_),) = events["sign_in"](NAME)
    parsed = assert_shown_as_text(pair, ["question", "first", "second", "caption"], images=1)
    assert PICTURE not in parsed.text + pair  # a copy of its pixels, without a name
    assert f"{NAME}: 0 judged, 1 waiting" in Parsed(status).text and Parsed(status).tags == ["p"]


def test_names_on_the_summary_and_no_comment(events, collection):
    opened, queue, _ = collection
    for name in (NAME, f"{NAME}2"):
        list(events["sign_in"](name))
        assert queue.judge(name, 0, Verdict.FIRST, hostile("comment"))
    summary, (screen,) = events["<lambda>"](), events["sign_in"](NAME)  # its button's event has no name
    assert {one.comment for one in opened.journal.of(0).values()} == {hostile("comment")}
    assert "comment" not in summary + "".join(map(str, screen))  # kept, but on no page
    parsed = Parsed(summary)
    assert {"img", "script"}.isdisjoint(parsed.tags) and parsed.handlers == []
    assert parsed.text.count(NAME) == 2 + 2 * 2  # verdicts, and the two of each table of agreement


def test_answers_on_the_comparison_page():
    from llava_rlhf.pages.comparison_page import Comparison

    class Stranger:
        """A checkpoint that answers with markup, token by token."""

        name = hostile("checkpoint")

        def answer(self, *asked):
            yield Answer(hostile("half"))
            yield Answer(hostile("whole"), done=True)

    half, whole = Comparison(LoadedModels([Stranger()], None)).compare(
        None, hostile("question"), None, 0.0, 0
    )
    assert_shown_as_text("".join(half), ["checkpoint", "half"])
    assert_shown_as_text("".join(whole), ["checkpoint", "whole"])
