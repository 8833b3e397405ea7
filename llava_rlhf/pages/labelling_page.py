"""The page on which people say which of two answers hallucinates less."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from data_utils.images import browser_copy
from llava_rlhf.collection.assignments import AssignmentQueue, Showing
from llava_rlhf.collection.judgements import Verdict
from llava_rlhf.pages.templates import render

VERDICTS = {
    "a-better": ("1 · A is better", Verdict.FIRST),
    "b-better": ("2 · B is better", Verdict.SECOND),
    "tie": ("3 · Tie", Verdict.TIE),
    "both-bad": ("4 · Both bad", Verdict.BOTH_BAD),
}
INTRODUCTION = (
    "# Which answer hallucinates less?\n"
    "Prefer the answer that claims less that is not in the picture. Keys 1 to 4 judge, u takes back."
)
LONGEST_NAME, LONGEST_COMMENT = 60, 2000
AI_PREFIX = "ai:"
FOCUS_ON_PAIR = "() => { document.querySelector('#pair article')?.focus(); }"
WAIT_SECONDS, LOOK_SECONDS = 600.0, 1.0


def labelling_page(
    queue: AssignmentQueue, image_folder: Path, summarise: Callable[[], dict[str, Any]]
) -> gr.Blocks:
    """The page; who is on it and which pair they see is kept in the page, so that it outlives the server.

    Args:
        queue: hands pairs out and takes judgements in.
        image_folder: of the pairs' images; the page gets copies of their pixels, never the files.
        summarise: counts and agreement.
    """
    screen = _Screen(queue, image_folder)
    with gr.Blocks(title="Collect preferences", analytics_enabled=False) as page:
        gr.Markdown(INTRODUCTION)
        with gr.Row(equal_height=True) as door:
            name = gr.Textbox(
                label="Your name", max_length=LONGEST_NAME, autofocus=True, elem_id="name", scale=4
            )
            start = gr.Button("Start", variant="primary", elem_id="start", scale=1, min_width=100)
        status = gr.HTML(elem_id="status", elem_classes="status")
        pair = gr.HTML(elem_id="pair")
        # What the browser shows is what it sends back: a second click can't judge a pair that was not seen.
        who, row = gr.Textbox(visible=False), gr.Number(visible=False, precision=0)
        with gr.Column(visible=False) as work:
            with gr.Row(elem_id="verdicts"):
                buttons = [
                    gr.Button(label, elem_id=key, min_width=120) for key, (label, _) in VERDICTS.items()
                ]
            comment = gr.Textbox(
                label="Comment on this pair (optional, kept with the next judgement)",
                max_length=LONGEST_COMMENT,
                elem_id="comment",
            )
            undo = gr.Button("Take back the last one (u)", elem_id="undo", size="sm")
        with gr.Accordion("Counts and agreement", open=False):
            refresh = gr.Button("Show", elem_id="show-summary")
            numbers = gr.HTML(elem_id="numbers")
        outputs = [status, pair, who, row, work, comment, door]
        shared = {
            "outputs": outputs,
            "show_progress": "hidden",
            "concurrency_limit": None,
            "api_visibility": "private",
        }
        signed_in = gr.on([start.click, name.submit], screen.sign_in, inputs=[name], **shared)
        signed_in.then(None, js=FOCUS_ON_PAIR)  # where keys judge, and nothing is typed
        for button, (_, verdict) in zip(buttons, VERDICTS.values(), strict=True):
            button.click(screen.judged(verdict), inputs=[who, row, comment], **shared)
        undo.click(screen.undone, inputs=[who], **shared)
        refresh.click(
            lambda: _numbers(summarise()), outputs=[numbers], show_progress="hidden", api_visibility="private"
        )
    return page


class _Screen:
    """What the events of the page do. Each yields (status, pair, who, row, work, comment, door)."""

    def __init__(self, queue: AssignmentQueue, image_folder: Path):
        self._queue, self._image_folder = queue, image_folder

    def sign_in(self, name: str | None) -> Iterator[tuple]:
        yield from self._next(_checked(" ".join((name or "").split())))

    def judged(self, verdict: Verdict) -> Callable[..., Iterator[tuple]]:
        def on_click(who: str | None, row: float | None, comment: str | None) -> Iterator[tuple]:
            who = _checked(who)
            if row is not None:  # None: no pair is shown
                self._queue.judge(who, int(row), verdict, (comment or "")[:LONGEST_COMMENT])
            yield from self._next(who)

        return on_click

    def undone(self, who: str | None) -> Iterator[tuple]:
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
        html = render(
            "pair",
            row=pair.row,
            pictures=[browser_copy(self._image_folder, name) for name in pair.images],
            question=pair.question,
            answers=showing.shown,
        )
        judged, waiting = self._queue.progress(who)
        status = _status(f"{who}: {judged} judged, {waiting} waiting")
        return status, html, who, pair.row, gr.update(visible=True), "", gr.update(visible=False)

    def _message(self, who: str, text: str) -> tuple:
        judged, _ = self._queue.progress(who)
        status = _status(f"{who}: {judged} judged. {text}")
        # The buttons stay while something can be taken back; without a row they judge nothing.
        return status, "", who, None, gr.update(visible=bool(judged)), "", gr.update(visible=True)


def _checked(name: str | None) -> str:
    """The name of a person; the page sends it along with every click."""
    if not name or not name.isprintable() or len(name) > LONGEST_NAME or name.lower().startswith(AI_PREFIX):
        raise gr.Error("Give a name that others can tell from theirs.", print_exception=False)
    return name


def _status(text: str) -> str:
    return render("status", text=text)


def _numbers(summary: dict[str, Any]) -> str:
    kinds = [verdict.value for verdict in Verdict if verdict is not Verdict.WITHDRAWN]
    return render("summary", summary=summary, kinds=kinds, number=_number)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
