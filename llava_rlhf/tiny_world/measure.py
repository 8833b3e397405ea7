"""What the tiny base can do, measured with plain `generate` on held-out scenes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

from data_utils.conversation import TEMPLATES, query_segments
from data_utils.schema import Turn
from data_utils.shapes_files import ask
from data_utils.shapes_text import CHOICE, DESCRIBE, YES_NO, Question, is_correct
from data_utils.shapes_world import CELLS, measure_description, sample_scene
from data_utils.tokens import SegmentEncoder, expand_image_tokens
from llava_rlhf.tiny_world.curriculum import picture_batch

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
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    pixels: Tensor,
    questions: list[Question],
    sample: bool,
) -> list[str]:
    """Answers of the model, one question for each picture of float32[B, 3, 32, 32]."""
    encoder = SegmentEncoder(tokenizer, model.config.image_token_id)
    rows, image = [], model.config.image_token_id
    for question in questions:
        query = query_segments(TEMPLATES["tiny"], [Turn("human", question.text)], 1)
        rows.append(expand_image_tokens(encoder.encode(query).ids, image, [[image] * CELLS]))
    width = max(len(row) for row in rows)
    ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    with torch.no_grad():
        output = model.eval().generate(
            input_ids=ids,
            attention_mask=mask,
            pixel_values=pixels,
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=sample,
            suppress_tokens=[tokenizer.bos_token_id, tokenizer.pad_token_id, model.config.image_token_id],
            # Greedy decoding refuses sampling settings; None is their neutral value.
            **({"temperature": 1.0, "top_k": 0, "top_p": 1.0} if sample else {}),
        )
    return tokenizer.batch_decode(output[:, width:], skip_special_tokens=True)


def measure(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    noise: float,
    count: int,
    seed: int,
) -> Skill:
    """Ask `count` new pictures each kind of question; descriptions both greedily and at temperature 1."""
    rng = np.random.default_rng([seed, 77])
    scenes = [sample_scene(rng) for _ in range(count)]
    pixels = picture_batch(scenes, (noise, noise), rng)
    shares: dict[str, float] = {}
    for kind in (YES_NO, CHOICE):
        questions = [ask(kind, scene.names, rng) for scene in scenes]
        answers = answer_questions(model, tokenizer, pixels, questions, sample=False)
        shares[kind] = float(np.mean([is_correct(q, a) for q, a in zip(questions, answers, strict=True)]))
    for sample in (False, True):
        questions = [ask(DESCRIBE, scene.names, rng) for scene in scenes]
        answers = answer_questions(model, tokenizer, pixels, questions, sample)
        measured = [
            measure_description(scene.names, answer) for scene, answer in zip(scenes, answers, strict=True)
        ]
        ending = "sampled" if sample else "greedy"
        shares[f"recall_{ending}"] = float(np.mean([j.recall for j in measured]))
        shares[f"hallucinating_{ending}"] = float(np.mean([j.hallucinated for j in measured]))
    return Skill(n=count, **shares)
