"""Where pairs come from: sampled batch by batch from a checkpoint, a little ahead of the annotators, or from a file."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

from data_utils.answers import AnswerRecord
from data_utils.datasets import PromptDataset
from data_utils.schema import IMAGE_MARKER
from llava_rlhf.assembly.roles import TextSide
from llava_rlhf.collection.pairs import PairFile, pair_line
from llava_rlhf.evaluation.answering import Answerer

LOOK_SECONDS = 0.25  # how often it is asked whether more pairs are needed

Lines = Sequence[Mapping[str, Any]]
logger = logging.getLogger(__name__)


def sampled_batches(
    answerer: Answerer,
    prompts: PromptDataset,
    text: TextSide,
    samples: int,
    prompts_per_batch: int,
    seed: int,
    known: frozenset[int],
) -> Iterator[list[dict[str, Any]]]:
    """Yield lines of the pairs file, batch by batch; an answer depends on the seed and its batch alone.

    Args:
        answerer: the checkpoint.
        prompts: what is asked.
        text: tokenizer of the base.
        samples: answers to a prompt, of which the first two different ones are taken.
        prompts_per_batch: prompts at once.
        seed: of sampling.
        known: rows that are in the file already; whole batches of them are passed over.
    """
    rows = prompts.column("row")
    for batch, start in enumerate(range(0, len(rows), prompts_per_batch)):
        chosen = range(start, min(start + prompts_per_batch, len(rows)))
        if not known.issuperset(rows[index] for index in chosen):
            # Far apart, so that the numbers of neighbouring seeds have no batch in common.
            batch_seed = seed * 1_000_003 + batch
            size = len(chosen) * samples
            (records,) = answerer.answers(prompts.select(chosen), text, size, samples, batch_seed)
            lines = [
                pair_line(list(answers), batch)
                for _, answers in groupby(records, lambda one: one["prompt_row"])
            ]
            yield [line for line in lines if line["row"] not in known]


def lines_from_answers(records: Sequence[AnswerRecord], prompts_per_batch: int) -> list[dict[str, Any]]:
    """Lines of the pairs file from an answers file with at least two answers a prompt.

    Answers belong together by `prompt_row`, or where they have none by image and question. Raises ValueError when no
    prompt has two, and where one `prompt_row` has two questions or images.
    """
    groups: dict[Any, list[AnswerRecord]] = {}
    for record in records:
        asked = record.images, record.turns[0].text
        group = groups.setdefault(asked if record.prompt_row is None else record.prompt_row, [])
        if group and asked != (group[0].images, group[0].turns[0].text):
            raise ValueError(
                f"row {record.row}: prompt_row {record.prompt_row} has another question or image than before; are these "
                "answers to several files of prompts?"
            )
        group.append(record)
    if not any(len(group) > 1 for group in groups.values()):
        raise ValueError(
            "no prompt has two answers: sample them with answer_prompts --samples 2 --temperature 1"
        )
    lines = []
    for number, group in enumerate(groups.values()):
        prompt = {
            "prompt_row": number if group[0].prompt_row is None else group[0].prompt_row,
            "id": group[0].id,
            "image": list(group[0].images),
            "question": group[0].turns[0].text.replace(IMAGE_MARKER, "").strip(),
            "answer_type": group[0].answer_type.name,
            **({"captions": list(group[0].captions)} if group[0].captions else {}),
            **group[0].facts.written(),
        }
        answers = [{**prompt, "answer": record.answer} for record in group]
        lines.append(pair_line(answers, number // prompts_per_batch))
    return lines


def fill(
    pairs: PairFile, batches: Iterable[Lines], enough: Callable[[], bool], stop: threading.Event
) -> None:
    """Add batches to a pairs file, the next one only when there are not `enough` pairs, until `stop` is set."""
    coming = iter(batches)
    while not stop.is_set():
        if enough():
            stop.wait(LOOK_SECONDS)
            continue
        lines = next(coming, None)
        if lines is None:
            break
        pairs.add(lines)
    pairs.finish()


@contextmanager
def filled_in_background(
    pairs: PairFile, batches: Iterable[Lines], enough: Callable[[], bool]
) -> Iterator[None]:
    """`fill` in a thread, which ends with the block: a model must not be at work while Python shuts down.

    The batch that is being sampled is finished and kept. A failure is logged, and no more pairs come.
    """
    stop = threading.Event()

    def run() -> None:
        try:
            fill(pairs, batches, enough, stop)
        except Exception:
            logger.exception("sampling has failed; pairs that are there can still be judged")
            pairs.finish()

    thread = threading.Thread(target=run, name="sampling", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        if thread.is_alive():
            logger.info("finishing the answers that are being sampled")
        thread.join()
