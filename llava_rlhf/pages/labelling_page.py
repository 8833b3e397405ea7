"""The page on which people say which of two answers hallucinates less."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from llava_rlhf.collection.assignments import AssignmentQueue
from llava_rlhf.collection.judgements import Verdict
from llava_rlhf.pages.labelling_screen import LONGEST_COMMENT, LONGEST_NAME, Screen, Showable, saved_name
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
FOCUS_ON_PAIR = "() => { document.querySelector('#pair article')?.focus(); }"
TO_THE_TOP = (
    "() => { window.scrollTo({ top: 0, behavior: 'instant' }); }"  # the next pair is read from its start
)
CAPTIONS_OPENED = (
    "(who, row, comment) => [who, row, comment, !!document.querySelector('#pair .captions[data-opened]')]"
)


def labelling_page(
    queue: AssignmentQueue, showable: Showable, summarise: Callable[[], dict[str, Any]]
) -> gr.Blocks:
    """The page; who is on it and which pair they see is kept in the page, so that it outlives the server.

    Args:
        queue: hands pairs out and takes judgements in.
        showable: pictures, captions and the goal.
        summarise: counts and agreement.
    """
    screen = Screen(queue, showable)
    with gr.Blocks(title="Collect preferences", analytics_enabled=False) as page:
        with gr.Row(elem_id="head"):
            gr.Markdown(INTRODUCTION, elem_id="introduction")
            status = gr.HTML(elem_id="status", elem_classes="status")
            leave = gr.Button("Change name", elem_id="leave", size="sm", visible=False, min_width=110)
            progress = gr.HTML(elem_id="progress")
        reached = gr.HTML(elem_id="reached")
        with gr.Row(equal_height=True, elem_id="door") as door:
            name = gr.Textbox(
                label="Your name", max_length=LONGEST_NAME, autofocus=True, elem_id="name", scale=4
            )
            start = gr.Button("Start", variant="primary", elem_id="start", scale=1, min_width=100)
        pair = gr.HTML(elem_id="pair")
        # What the browser shows is what it sends back: a second click can't judge a pair that was not seen.
        who, row = gr.Textbox(visible=False), gr.Number(visible=False, precision=0)
        opened = gr.Checkbox(visible=False)
        # The browser keeps the name for the next time; no secret, but a random one would end with the server.
        saved = gr.BrowserState(saved_name(""), storage_key="llava-rlhf-annotator", secret="name")
        work, buttons, comment, undo = _bar()
        _counts(summarise)
        outputs = [status, pair, who, row, work, comment, door, progress, reached, leave, saved, name]
        shared = {
            "outputs": outputs,
            "show_progress": "hidden",
            "concurrency_limit": None,
            "api_visibility": "private",
        }
        page.load(screen.returned, inputs=[saved], **shared).then(None, js=FOCUS_ON_PAIR)
        signed_in = gr.on([start.click, name.submit], screen.sign_in, inputs=[name], **shared)
        signed_in.then(None, js=FOCUS_ON_PAIR)  # where keys judge, and nothing is typed
        for button, (_, verdict) in zip(buttons, VERDICTS.values(), strict=True):
            seen = [who, row, comment, opened]
            button.click(screen.judged(verdict), inputs=seen, js=CAPTIONS_OPENED, **shared).then(
                None, js=TO_THE_TOP
            )
        undo.click(screen.undone, inputs=[who], **shared).then(None, js=TO_THE_TOP)
        leave.click(screen.left, **shared)
    return page


def _bar() -> tuple[gr.Column, list[gr.Button], gr.Textbox, gr.Button]:
    """What stays in sight: the bar itself, a button for each verdict, the comment, and the button that takes back."""
    with gr.Column(visible=False, elem_id="bar") as bar:
        with gr.Row(elem_id="verdicts"):
            buttons = [gr.Button(label, elem_id=key, min_width=120) for key, (label, _) in VERDICTS.items()]
        comment = gr.Textbox(
            label="Comment on this pair",
            show_label=False,
            container=False,
            placeholder="Comment (optional)",
            max_lines=1,
            max_length=LONGEST_COMMENT,
            elem_id="comment",
        )
        undo = gr.Button("Take back (u)", elem_id="undo", size="sm", min_width=110)
    return bar, buttons, comment, undo


def _counts(summarise: Callable[[], dict[str, Any]]) -> None:
    """Counts and agreement, on demand."""
    with gr.Accordion("Counts and agreement", open=False, elem_id="summary"):
        refresh = gr.Button("Show", elem_id="show-summary")
        numbers = gr.HTML(elem_id="numbers")
    refresh.click(
        lambda: _numbers(summarise()), outputs=[numbers], show_progress="hidden", api_visibility="private"
    )


def _numbers(summary: dict[str, Any]) -> str:
    kinds = [verdict.value for verdict in Verdict if verdict is not Verdict.WITHDRAWN]
    return render("summary", summary=summary, kinds=kinds, number=_number)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
