"""An AI annotator: asks a judge about each pair in both orders, and trusts only what both orders say.

A judge that favours what stands first favours either answer once: that is a tie here. Label noise flips preferences at
random, as people differ from each other (Dubois et al., "AlpacaFarm", arXiv 2305.14387, section 3: 0.25 there).
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_rlhf.collection.judgements import Judgement, Verdict
from llava_rlhf.collection.pairs import Pair
from llava_rlhf.engines.judge_client import Judge, Question

PLACEHOLDERS = ("{question}", "{captions}", "{answer_a}", "{answer_b}")
PROMPT = """\
You see an image, what people wrote about it, a question, and two answers to the question. Decide which answer \
hallucinates less: which one claims less that the image and the captions do not support. An answer that leaves \
something out is better than one that makes something up. Of two answers that are equally true, the one that says more \
is better. Length and style do not matter, nor does it matter which answer comes first.

Captions:
{captions}

Question: {question}

Answer A:
{answer_a}

Answer B:
{answer_b}

First name the unsupported claims of each answer in a sentence or two. Then write one last line, which is exactly one of
Verdict: A
Verdict: B
Verdict: tie
Verdict: both bad
"""
NO_CAPTIONS = "(none)"
_VERDICT = re.compile(r"verdict\W*(?:answer\W+|a\W+(?=tie))?(A|B|tie|both[\W_]?bad)\b", re.IGNORECASE)
_MEANING = {"a": Verdict.FIRST, "b": Verdict.SECOND, "tie": Verdict.TIE}


def read_prompt(path: str | None) -> str:
    """The judge's prompt: ours, or a file's. Raises ValueError for a file that lacks a placeholder."""
    if path is None:
        return PROMPT
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ValueError(f"--judge_prompt_file {path}: {error}") from None
    missing = [name for name in PLACEHOLDERS if name not in text]
    if missing:
        raise ValueError(f"--judge_prompt_file {path}: has no {', '.join(missing)}")
    return text


def read_verdict(text: str) -> Verdict:
    """What a reply says, by its last "Verdict: …"; `FIRST` is answer A. `UNREADABLE` where it says none."""
    found = _VERDICT.findall(text)
    return _MEANING.get(found[-1].lower(), Verdict.BOTH_BAD) if found else Verdict.UNREADABLE


def combined(first: Verdict, second: Verdict) -> Verdict:
    """One verdict from those on both orders, both in terms of the outputs.

    Where they differ it is a tie; where one can't be read, nothing was said.
    """
    if Verdict.UNREADABLE in (first, second):
        return Verdict.UNREADABLE
    return first if first == second else Verdict.TIE


def fill_in(prompt: str, question: str, captions: Sequence[str], answers: tuple[str, str]) -> str:
    """The prompt with everything in its place; braces within an answer stay as they are."""
    lines = "\n".join(f"- {caption}" for caption in captions) or NO_CAPTIONS
    values = dict(zip(PLACEHOLDERS, (question, lines, *answers), strict=True))
    return re.sub("|".join(map(re.escape, PLACEHOLDERS)), lambda found: values[found.group()], prompt)


@dataclass(frozen=True)
class AIAnnotator:
    """Judges pairs with a vision-language model.

    Attributes:
        judge: who is asked.
        prompt: see `read_prompt`.
        image_folder: where the images are.
        label_noise: probability of flipping a preference, drawn for each pair by itself.
        seed: of the noise.
    """

    judge: Judge
    prompt: str
    image_folder: Path
    label_noise: float
    seed: int

    @property
    def name(self) -> str:
        """Under which its judgements are kept; noisy ones are another annotator's."""
        noise = f" with label noise {self.label_noise}" if self.label_noise else ""
        return f"ai:{self.judge.name}{noise}"

    def judgements(self, pairs: Sequence[Pair], captions: Sequence[Sequence[str]]) -> list[Judgement]:
        """One judgement a pair, which is two requests. Raises JudgeError."""
        questions = []
        for pair, facts in zip(pairs, captions, strict=True):
            images = tuple(self.image_folder / name for name in pair.images)
            for answers in (pair.outputs, pair.outputs[::-1]):
                questions.append(Question(fill_in(self.prompt, pair.question, facts, answers), images))
        verdicts = [read_verdict(reply.text) for reply in self.judge.ask_all(questions)]
        return [
            self._judgement(pair, straight, swapped.mirrored)
            for pair, straight, swapped in zip(pairs, verdicts[::2], verdicts[1::2], strict=True)
        ]

    def _judgement(self, pair: Pair, straight: Verdict, swapped: Verdict) -> Judgement:
        verdict = combined(straight, swapped)
        flipped = (
            verdict.preference is not None
            # A string seed is hashed by `random` itself: the same in every process.
            and random.Random(f"{self.seed}:{pair.row}").random() < self.label_noise
        )
        details = {"orders": [straight.value, swapped.value], "flipped": flipped}
        verdict = verdict.mirrored if flipped else verdict
        return Judgement(pair.row, self.name, verdict, human=False, details=details)
