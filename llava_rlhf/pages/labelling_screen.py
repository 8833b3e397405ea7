"""What the labelling page shows after each of its events."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from data_utils.images import browser_copy
from llava_rlhf.collection.assignments import AssignmentQueue, Showing
from llava_rlhf.collection.judgements import Verdict
from llava_rlhf.collection.pairs import Pair
from llava_rlhf.pages.templates import render
from llava_rlhf.pages.word_diff import differing_words

LONGEST_NAME, LONGEST_COMMENT = 60, 2000
LONGEST_SIDE = 1600  # pixels of a picture; enlarged it shows more than fits beside the answers
AI_PREFIX = "ai:"
WAIT_SECONDS, LOOK_SECONDS = 600.0, 1.0
OUTPUTS = 12  # of each event, see `Screen`


@dataclass(frozen=True)
class Showable:
    """What is shown besides answers.

    Attributes:
        image_folder: of the pairs' images; the page gets copies of their pixels, never the files.
        captions: of a pair, shown on demand.
        goal: judgements that each person is asked for; 0 for all pairs.
        following: what comes once the goal is reached.
    """

    image_folder: Path
    captions: Callable[[Pair], Sequence[str]] = lambda pair: pair.captions
    goal: int = 0
    following: str = ""


class Screen:
    """What the events do. Each yields (status, pair, who, row, work, comment, door, progress, reached, leave, saved, name)."""

    def __init__(self, queue: AssignmentQueue, showable: Showable):
        self._queue, self._showable = queue, showable

    def sign_in(self, name: str | None) -> Iterator[tuple]:
        """Somebody has given a name."""
        yield from self._next(_checked(" ".join((name or "").split())))

    def returned(self, saved: Any) -> Iterator[tuple]:
        """The page was opened; `saved` is what `saved_name` made when a name was given in this browser before."""
        name = saved.get("name") if isinstance(saved, dict) else None
        if _usable(name):
            yield from self._next(name)
        else:
            yield (gr.skip(),) * OUTPUTS  # somebody may be typing their name by now

    def left(self) -> Iterator[tuple]:
        """Somebody else wants to give a name."""
        yield "", "", None, None, _hidden(), "", _shown(), "", "", _hidden(), saved_name(""), ""

    def judged(self, verdict: Verdict) -> Callable[..., Iterator[tuple]]:
        """What the button of a verdict does."""

        def on_click(
            who: str | None, row: float | None, comment: str | None, captions_opened: bool = False
        ) -> Iterator[tuple]:
            who = _checked(who)
            if row is not None:  # None: no pair is shown
                self._queue.judge(
                    who, int(row), verdict, (comment or "")[:LONGEST_COMMENT], captions_opened is True
                )
            yield from self._next(who)

        return on_click

    def undone(self, who: str | None) -> Iterator[tuple]:
        """Somebody takes their last judgement back."""
        if not self._queue.undo(_checked(who)):
            gr.Info("There is nothing to take back.")
        yield from self._next(who)

    def _next(self, who: str) -> Iterator[tuple]:
        deadline = time.monotonic() + WAIT_SECONDS
        waiting = False
        while (showing := self._queue.show(who)) is None:
            if self._queue.pairs.complete:
                yield self._message(who, "All pairs are judged. Thank you! You can close the page.")
                return
            if time.monotonic() > deadline:
                yield self._message(
                    who, "No answers were sampled for a long time; press Start to look again."
                )
                return
            if not waiting:
                yield self._message(who, "Answers are being sampled; the next pair comes by itself.")
                waiting = True
            self._queue.pairs.wait(LOOK_SECONDS)
        yield self._pair(who, showing)

    def _pair(self, who: str, showing: Showing) -> tuple:
        pair = showing.pair
        folder = self._showable.image_folder
        html = render(
            "pair",
            row=pair.row,
            pictures=[browser_copy(folder, name, LONGEST_SIDE) for name in pair.images],
            question=pair.question,
            answers=differing_words(*showing.shown),
            captions=self._showable.captions(pair),
        )
        judged, waiting = self._queue.progress(who)
        status = _status(f"{who}: {judged} judged, {waiting} waiting")
        return (
            status,
            html,
            who,
            pair.row,
            _shown(),
            "",
            _hidden(),
            *self._progress(who),
            _shown(),
            saved_name(who),
            who,
        )

    def _message(self, who: str, text: str) -> tuple:
        judged, _ = self._queue.progress(who)
        status = _status(f"{who}: {judged} judged. {text}")
        # The buttons stay while something can be taken back; without a row they judge nothing.
        work = gr.update(visible=bool(judged))
        return (
            status,
            "",
            who,
            None,
            work,
            "",
            _shown(),
            *self._progress(who),
            _hidden(),
            saved_name(who),
            who,
        )

    def _progress(self, who: str) -> tuple[str, str]:
        """How far somebody is, and what comes next where that is the goal."""
        judged, waiting = self._queue.progress(who)
        total = self._showable.goal or judged + waiting
        if not total:
            return "", ""  # no pair is there yet
        progress = render(
            "progress",
            judged=judged,
            total=total,
            winners=self._queue.preferred(who),
            growing=not self._showable.goal and not self._queue.pairs.complete,
        )
        if not 0 < self._showable.goal <= judged:
            return progress, ""
        return progress, render("reached", following=self._showable.following)


def saved_name(name: str) -> dict[str, str]:
    """What the browser keeps; never empty, for Gradio's browser does not store an empty value."""
    return {"name": name}


def _usable(name: str | None) -> bool:
    """Whether somebody may have this name."""
    return (
        isinstance(name, str)
        and 0 < len(name) <= LONGEST_NAME
        and name.isprintable()
        and not name.lower().startswith(AI_PREFIX)
    )


def _checked(name: str | None) -> str:
    """The name of a person; the page sends it along with every click."""
    if not _usable(name):
        raise gr.Error("Give a name that others can tell from theirs.", print_exception=False)
    return name


def _status(text: str) -> str:
    return render("status", text=text)


def _shown() -> dict[str, Any]:
    return gr.update(visible=True)


def _hidden() -> dict[str, Any]:
    return gr.update(visible=False)
