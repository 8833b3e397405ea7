"""Greedy answers to the same questions: by our sampling, and by what anybody calls, `model.generate`."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from data_utils.batches import image_batch
from llava_rlhf.assembly.image_features import encode_images
from llava_rlhf.assembly.roles import TextSide, load_text_side, unsampled_ids
from llava_rlhf.conversion.plain_inputs import PlainInput, questions_on_all_pictures
from llava_rlhf.exporting.trained import Trained
from models.base_files import read_base_config
from models.generation import SamplingSettings
from models.roles import Policy
from models.vlm import VisionLanguageModel

MAX_NEW_TOKENS = 16


@dataclass(frozen=True)
class Questions:
    """Questions, and how our programs would answer them."""

    inputs: Sequence[PlainInput] = ()
    text: TextSide | None = None

    @classmethod
    def on_all_pictures(cls, folder: Path, base: Path, trained: Trained) -> Questions:
        """On a picture of every kind; plain transformers makes of each what we make of it, with the files in `folder`.

        Raises RuntimeError where it does not.
        """
        text = load_text_side(base, trained.image_choices, trained.version, trained.system_message)
        rows = read_base_config(base).get_text_config().vocab_size
        return cls(questions_on_all_pictures(text, text.template, folder, rows), text)


def our_answers(policy: Policy, vlm: VisionLanguageModel, questions: Questions) -> list[list[int]]:
    """Ids of the answer to each question, its stop included."""
    answers = []
    for question in questions.inputs:
        tokenizer = questions.text.tokenizer
        sampling = SamplingSettings(
            MAX_NEW_TOKENS,
            questions.text.stop_ids,
            tokenizer.pad_token_id,
            temperature=0.0,
            banned_ids=tuple(unsampled_ids(questions.text, vlm.vocab_size).tolist()),
        )
        ids = torch.tensor([question.ids], device=vlm.device)
        features = encode_images(vlm, image_batch([(question.pixels, None, question.grids)]))
        answer = policy.sample(
            ids, torch.ones_like(ids, dtype=torch.bool), features, sampling, merge_adapter=False
        )
        answers.append(answer.ids[0][answer.mask[0]].tolist())
    return answers


def check_answers(
    model: PreTrainedModel, questions: Questions, answers: Sequence[list[int]], limit: float
) -> None:
    """Ask plain transformers with the model's own generation configuration.

    Args:
        model: the written model, as plain transformers loads it.
        questions: whose inputs plain transformers is known to make too.
        answers: of `our_answers`.
        limit: largest difference of logits over the largest logit that rounding explains.

    Raises:
        RuntimeError: an answer is another one, and not because two tokens were equally likely.
    """
    for question, ours in zip(questions.inputs, answers, strict=True):
        ids = torch.tensor([question.ids], device=model.device)
        output = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **_native(model, ids, question),
            max_new_tokens=MAX_NEW_TOKENS,
            output_logits=True,
            return_dict_in_generate=True,
        )
        theirs = output.sequences[0, ids.shape[1] :].tolist()
        if theirs != ours and not _tied(theirs, ours, output.logits, limit):
            decode = questions.text.tokenizer.decode
            raise RuntimeError(
                f"{question.name}: plain transformers answers {question.question!r} with {decode(theirs)!r}, our sampling "
                f"with {decode(ours)!r}"
            )


def _native(model: PreTrainedModel, ids: Tensor, question: PlainInput) -> dict[str, Tensor]:
    """What the model's own `forward` takes besides ids and mask, of what its processor would hand it."""
    tensors = {
        name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else None)
        for name, tensor in question.tensors.items()
    }
    pictures = (ids == model.config.image_token_id).int()
    given = {"mm_token_type_ids": pictures, "token_type_ids": pictures, **tensors}
    taken = inspect.signature(model.forward).parameters
    return {name: tensor for name, tensor in given.items() if name in taken}


def _tied(theirs: Sequence[int], ours: Sequence[int], logits: Sequence[Tensor], limit: float) -> bool:
    """Whether the first tokens that differ are about equally likely; from there on, answers may be any."""
    for mine, other, row in zip(ours, theirs, logits, strict=False):
        if mine != other:
            return bool((row[0, other] - row[0, mine]).abs() <= limit * row.abs().max())
    return False  # one stops where the other goes on
