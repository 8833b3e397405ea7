"""Does the merged model compute what base + adapter compute? Both are run on the same prompts and answers.

And does it answer the same, asked by plain transformers as the files beside it say?
"""

from __future__ import annotations

import gc
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data_utils.batches import image_batch
from data_utils.building import build_prompts
from data_utils.items import PromptItem
from data_utils.row_settings import RowSettings
from llava_rlhf.assembly.image_features import encode_images, expand_query
from llava_rlhf.assembly.roles import load_text_side
from llava_rlhf.exporting.plain_answers import Questions, check_answers, our_answers
from llava_rlhf.exporting.trained import Trained
from llava_rlhf.runs.role_files import POLICY
from models.adapters import AdapterBank, AdapterSpec
from models.base_files import read_family
from models.generation import SamplingSettings
from models.roles import Policy
from models.vlm import BaseSettings, VisionLanguageModel, load_base

ANSWER_TOKENS = 16
MAX_PROMPT_TOKENS = 2048
# Largest difference over largest logit that rounding explains; a wrong merge is off by far more.
LIMITS = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}


@dataclass(frozen=True)
class Parity:
    """How far two models are apart at the answer tokens of a few prompts.

    Attributes:
        prompts, tokens: how many were compared.
        max_difference: of any logit.
        max_logit: the largest |logit| of the model with the adapter.
        same_choice: share of the tokens where both have the same most likely one.
        answers: how many questions on pictures of all kinds plain transformers answered as our programs do.
    """

    prompts: int
    tokens: int
    max_difference: float
    max_logit: float
    same_choice: float
    answers: int

    def __str__(self) -> str:
        return (
            f"{self.prompts} prompts, {self.tokens} answer tokens: max logit difference {self.max_difference:.2e} "
            f"(largest logit {self.max_logit:.1f}), same most likely token at {self.same_choice:.1%}; "
            f"{self.answers} questions on pictures of all kinds answered alike by plain transformers"
        )


def read_check_prompts(
    file: str | None, image_folder: str | None, base: str, rows: int, trained: Trained
) -> list[PromptItem]:
    """The first prompts of a file of prompts, or without one three questions on a random picture, pixels included.

    Raises ValueError for bad rows.
    """
    with tempfile.TemporaryDirectory() as folder:
        if file is None:
            file, image_folder = str(_write_own_prompts(Path(folder))), folder
        text = load_text_side(base, trained.image_choices, trained.version, trained.system_message)
        rows_read = RowSettings(
            image_folder=image_folder,
            encoder=text.encoder,
            template=text.template,
            pipeline=text.pipeline,
            query_len=MAX_PROMPT_TOKENS,
            response_len=ANSWER_TOKENS,
            model_max_length=MAX_PROMPT_TOKENS + ANSWER_TOKENS,
            skip_invalid=False,
        )
        dataset = build_prompts(file, rows_read, reward_pipeline=None, facts=None, prompt=None, seed=0)
        return [dataset[index] for index in range(min(rows, len(dataset)))]


def measure_parity(
    base: Path,
    adapter: Path,
    merged: Path,
    items: Sequence[PromptItem],
    dtype: torch.dtype,
    questions: Questions,
) -> Parity:
    """Run both models, one after the other, over the prompts and the adapter's greedy answers to them.

    Args:
        base, adapter: what was merged; the base unquantised.
        merged: the result, loaded by plain transformers.
        items: prompts with pixels.
        dtype: of weights and activations.
        questions: to be answered by plain transformers and by our sampling.

    Raises:
        RuntimeError: the difference is larger than rounding explains, or an answer is another one.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sequences, expected, answers = _with_adapter(
        base, adapter, items, BaseSettings(compute_dtype=dtype, device=device), questions
    )
    gc.collect()  # the base must be gone before the merged model comes
    model = (
        read_family(merged)
        .model_class()
        .from_pretrained(merged, dtype=dtype, use_safetensors=True)
        .to(device)
        .eval()
    )
    vlm = VisionLanguageModel(model, dtype)  # prompts are kept as features want them: pixels and grids
    differences, agreements, largest = [], [], 0.0
    for item, ids, logits in zip(items, sequences, expected, strict=True):
        features = encode_images(vlm, image_batch([(item.images, None, item.grids)]))
        with torch.no_grad():
            hidden = vlm(torch.tensor([ids], device=device), None, features)[0, -len(logits) :]
            found = vlm.project(hidden).float().cpu()
        differences.append((found - logits).abs().max())
        agreements.append(found.argmax(dim=-1) == logits.argmax(dim=-1))
        largest = max(largest, float(logits.abs().max()))
    agreement = torch.cat(agreements)
    parity = Parity(
        len(items),
        len(agreement),
        float(max(differences)),
        largest,
        float(agreement.double().mean()),
        len(answers),
    )
    # Written so that NaN fails too.
    if not parity.max_difference <= LIMITS[dtype] * largest:
        raise RuntimeError(f"the merged model does not compute what base + adapter do: {parity}")
    check_answers(model, questions, answers, LIMITS[dtype])
    return parity


def _with_adapter(
    base: Path, adapter: Path, items: Sequence[PromptItem], settings: BaseSettings, questions: Questions
) -> tuple[list[list[int]], list[Tensor], list[list[int]]]:
    """For each prompt the ids of [prompt, greedy answer but its last token], and the logits float[T, V] of the answer.

    And for each question the answer's ids.
    """
    vlm = load_base(base, settings)
    bank = AdapterBank(vlm, {POLICY: AdapterSpec(adapter, trainable=False)})
    sampling = SamplingSettings(
        ANSWER_TOKENS, (), pad_id=0, temperature=0.0, banned_ids=vlm.family.banned_ids
    )
    sequences, logits = [], []
    for item in items:
        features = encode_images(vlm, image_batch([(item.images, None, item.grids)]))
        query = expand_query(item.query_ids, features.grids if features else (), vlm)
        ids = torch.tensor([query], device=vlm.device)
        real = torch.ones_like(ids, dtype=torch.bool)
        answer = Policy(bank, POLICY).sample(ids, real, features, sampling, merge_adapter=False).ids
        whole = torch.cat([ids, answer[:, :-1]], dim=1)
        with torch.no_grad(), bank.use(POLICY, training=False):
            hidden = vlm(whole, None, features)[0, -ANSWER_TOKENS:]
            logits.append(vlm.project(hidden).float().cpu())
        sequences.append(whole[0].tolist())
    return sequences, logits, our_answers(Policy(bank, POLICY), vlm, questions)


def _write_own_prompts(folder: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((256, 256), Image.Resampling.BICUBIC).save(folder / "noise.png")
    questions = ("Describe the picture.", "What is in the middle?", "Which colors are there?")
    rows = [
        {
            "id": str(number),
            "image": "noise.png",
            "conversations": [
                {"from": "human", "value": f"<image>\n{question}"},
                {"from": "gpt", "value": ""},
            ],
        }
        for number, question in enumerate(questions)
    ]
    (folder / "prompts.json").write_text(json.dumps(rows))
    return folder / "prompts.json"
