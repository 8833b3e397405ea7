"""The page that puts the answers of several checkpoints side by side, with the reward model's score under each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder

from data_utils.images import check_image
from data_utils.schema import IMAGE_MARKER, Turn
from llava_rlhf.interactive.answering_models import Answer, LoadedModels
from llava_rlhf.pages.templates import render

INTRODUCTION = "# Compare answers\nThe same picture and question to every checkpoint."
LONGEST_TEXT = 20_000


@dataclass(frozen=True)
class Column:
    """What stands under the name of one checkpoint."""

    name: str
    answer: Answer = field(default_factory=lambda: Answer(""))
    growing: bool = False
    score: float | None = None


def comparison_page(models: LoadedModels, temperature: float, seed: int) -> gr.Blocks:
    """The page.

    Args:
        models: who answers, and who scores.
        temperature, seed: what the page starts with.
    """
    with gr.Blocks(title="Compare answers", analytics_enabled=False) as page:
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            with gr.Column(min_width=260):
                picture = gr.Image(
                    label="Picture",
                    type="filepath",
                    image_mode=None,  # the file as it was uploaded, not Gradio's encoding of it
                    sources=["upload", "clipboard"],
                    height=280,
                    elem_id="picture",
                )
            with gr.Column(min_width=260):
                question = gr.Textbox(label="Question", lines=2, max_length=LONGEST_TEXT, elem_id="question")
                captions = gr.Textbox(
                    label="Captions for the reward model, one a line (the checkpoints never see them)",
                    lines=3,
                    max_length=LONGEST_TEXT,
                    visible=models.scorer is not None and models.scorer.uses_facts,
                    elem_id="captions",
                )
                with gr.Row():
                    heat = gr.Slider(0, 2, temperature, step=0.05, label="Temperature")
                    number = gr.Number(seed, label="Seed", precision=0, min_width=80)
                ask = gr.Button("Answer", variant="primary", elem_id="ask")
        with gr.Row(equal_height=True):
            columns = []
            for model in models.answering:
                with gr.Column(min_width=260):
                    columns.append(gr.HTML(_html(Column(model.name), None), elem_classes="column"))
        gr.on(
            [ask.click, question.submit],
            Comparison(models).compare,
            inputs=[picture, question, captions, heat, number],
            outputs=columns,
            show_progress="hidden",
            concurrency_limit=4,
            api_visibility="private",
        )
    return page


class Comparison:
    """Asks everybody the same."""

    def __init__(self, models: LoadedModels):
        self._models = models

    def compare(
        self, picture: str | None, question: str, captions: str | None, temperature: float, seed: float | None
    ) -> Iterator[list[str]]:
        """Yield the HTML of all columns each time an answer has grown, and with the scores at the end.

        One after the other: checkpoints on one base share its weights.
        """
        if not question.strip():
            raise gr.Error("Ask a question.", print_exception=False)
        path = None if picture is None else _uploaded(picture)
        if seed is not None and not 0 <= seed < 2**63:
            raise gr.Error("The seed must be from 0 to 2⁶³ − 1.", print_exception=False)
        turns = [Turn("human", question.replace(IMAGE_MARKER, ""))]
        facts = [line.strip() for line in (captions or "").splitlines() if line.strip()]
        columns = [Column(model.name) for model in self._models.answering]
        for index, model in enumerate(self._models.answering):
            try:
                for answer in model.answer(turns, path, temperature, int(seed or 0)):
                    columns[index] = replace(columns[index], answer=answer, growing=not answer.done)
                    yield _all(columns)
            except ValueError as error:
                raise gr.Error(str(error), print_exception=False) from error
            if self._models.scorer is not None:
                score = self._models.scorer.score(turns, path, columns[index].answer, facts)
                columns[index] = replace(columns[index], score=score)
                yield _all(columns)


def _uploaded(picture: str) -> Path:
    """The file of the image field. A forged request can name any file of the machine; only uploads are looked at."""
    path, uploads = Path(picture).resolve(), Path(get_upload_folder()).resolve()
    reason = check_image(path.parent, path.name) if path.is_relative_to(uploads) else "upload it"
    if reason:
        raise gr.Error(f"Picture: {reason}", print_exception=False)
    return path


def _all(columns: list[Column]) -> list[str]:
    scores = [column.score for column in columns]
    # Nobody is best before everybody has a score, or where all have the same.
    best = max(scores) if None not in scores and len(set(scores)) > 1 else None
    return [_html(column, best) for column in columns]


def _html(column: Column, best: float | None) -> str:
    cut_off = column.answer.done and not column.answer.stopped
    return render(
        "answer",
        name=column.name,
        text=column.answer.text,
        growing=column.growing,
        note="cut off: the longest answer allowed" if cut_off else "",
        score=column.score,
        best=best is not None and column.score == best,
    )
