"""What the tiny base can do, measured with plain `generate` on held-out scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from data_utils.conversation import query_segments
from data_utils.schema import Turn
from data_utils.shapes_files import AnyScene, ask
from data_utils.shapes_text import CHOICE, DESCRIBE, YES_NO, Question, is_correct
from data_utils.shapes_world import measure_description
from data_utils.tokens import SegmentEncoder, expand_image_tokens
from llava_rlhf.tiny_world.kind import TinyKind
from models.families.registry import family_of

MAX_NEW_TOKENS = 32


@dataclass(frozen=True)
class Skill:
    """Numbers of a base at one noise level, all shares 0..1 over `n` held-out pictures."""

    n: int
    recall_greedy: float
    hallucinating_greedy: float
    recall_sampled: float
    hallucinating_sampled: float
    yes_no: float
    choice: float

    def line(self) -> str:
        """One line for a log."""
        return (
            f"describe greedy recall {self.recall_greedy:.3f} hallucinating {self.hallucinating_greedy:.3f}, "
            f"sampled recall {self.recall_sampled:.3f} hallucinating {self.hallucinating_sampled:.3f}; "
            f"yes/no {self.yes_no:.3f}, choice {self.choice:.3f} (n = {self.n})"
        )


def answer_questions(
    kind: TinyKind,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    scenes: Sequence[AnyScene],
    pixels: Tensor,
    questions: Sequence[Question],
    sample: bool,
) -> list[str]:
    """Answers of the model, one question for each scene."""
    family = family_of(model.config)
    encoder = SegmentEncoder(tokenizer, family.image_token_id)
    grids = [kind.grid(scene) for scene in scenes]
    rows = []
    for grid, question in zip(grids, questions, strict=True):
        query = query_segments(kind.template, [Turn("human", question.text)], 1)
        placeholders = [family.placeholder(grid)]
        rows.append(expand_image_tokens(encoder.encode(query).ids, family.image_token_id, placeholders))
    width = max(len(row) for row in rows)
    ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    with torch.no_grad():
        output = model.eval().generate(
            input_ids=ids,
            attention_mask=mask,
            pixel_values=pixels,
            **kind.native(ids, grids),
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=sample,
            suppress_tokens=[*begin, tokenizer.pad_token_id, *family.banned_ids],
            # Greedy decoding refuses sampling settings; None is their neutral value.
            **({"temperature": 1.0, "top_k": 0, "top_p": 1.0} if sample else {}),
        )
    return tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)


def measure(
    kind: TinyKind,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    noise: float,
    count: int,
    seed: int,
) -> Skill:
    """Ask `count` new pictures each kind of question; descriptions both greedily and at temperature 1."""
    rng = np.random.default_rng([seed, 77])
    scenes = [kind.sample_scene(rng) for _ in range(count)]
    pixels = kind.pixels(scenes, (noise, noise), rng)
    shares: dict[str, float] = {}
    for form in (YES_NO, CHOICE):
        questions = [ask(form, scene.names, rng) for scene in scenes]
        answers = answer_questions(kind, model, tokenizer, scenes, pixels, questions, sample=False)
        shares[form] = float(np.mean([is_correct(q, a) for q, a in zip(questions, answers, strict=True)]))
    for sample in (False, True):
        questions = [ask(DESCRIBE, scene.names, rng) for scene in scenes]
        answers = answer_questions(kind, model, tokenizer, scenes, pixels, questions, sample)
        measured = [
            measure_description(scene.names, answer) for scene, answer in zip(scenes, answers, strict=True)
        ]
        ending = "sampled" if sample else "greedy"
        shares[f"recall_{ending}"] = float(np.mean([j.recall for j in measured]))
        shares[f"hallucinating_{ending}"] = float(np.mean([j.hallucinated for j in measured]))
    return Skill(n=count, **shares)
