"""A judge that is a language model on this machine: a Hugging Face folder, text only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from llava_rlhf.engines.judge_client import Question, Reply, ReplyCache
from llava_rlhf.hub.places import place_of_download
from models.base_place import check_place

OPTIONS = frozenset({"temperature", "max_tokens"})


class JudgeModel:
    """A language model that is loaded when it is first wanted, and once however many judges share it.

    Args:
        folder: a causal language model with its tokenizer; its chat template is used if it has one.
        device: where the model goes.

    Raises:
        ValueError: the folder holds no model.
    """

    def __init__(self, folder: str | Path, device: str):
        try:
            check_place(folder)
        except ValueError as error:
            raise ValueError(f"--judge_model_path {error}") from None
        self.folder, self._device = Path(folder), device
        self._loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None

    def load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The model and its tokenizer."""
        if self._loaded is None:
            tokenizer = AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(self.folder, dtype="auto")
            self._loaded = model.to(self._device).eval(), tokenizer
        return self._loaded

    @property
    def is_loaded(self) -> bool:
        """Whether it was wanted so far."""
        return self._loaded is not None


class LocalJudge:
    """Answers one question at a time; the model is loaded when the first reply is not in the cache.

    Args:
        model: who answers; judges may share it.
        options: `temperature` (0: the most likely token) and `max_tokens`.
        cache: where replies are kept.

    Raises:
        ValueError: an option is unknown.
    """

    def __init__(self, model: JudgeModel, options: Mapping[str, Any], cache: ReplyCache):
        unknown = sorted(set(options) - OPTIONS)
        if unknown:
            raise ValueError(
                f"--judge_options: a local judge knows temperature and max_tokens, not {unknown}"
            )
        temperature, max_tokens = options.get("temperature", 0), options.get("max_tokens", 512)
        if not isinstance(temperature, int | float) or temperature < 0:
            raise ValueError(f"--judge_options: temperature {temperature!r} must be 0 or more")
        if not isinstance(max_tokens, int) or max_tokens < 1:
            raise ValueError(f"--judge_options: max_tokens {max_tokens!r} must be a whole number from 1")
        self.name = str(place_of_download(model.folder) or model.folder.resolve().name)
        self.settings = {"path": str(model.folder.resolve()), "options": dict(options)}
        self._model, self._cache = model, cache
        self._temperature, self._max_tokens = float(temperature), max_tokens

    def ask_all(self, questions: Sequence[Question]) -> list[Reply]:
        """Replies in the order of the questions. Raises ValueError for a question with images."""
        if any(question.images for question in questions):
            raise ValueError("a local judge reads text only")
        return [
            self._ask(question) for question in tqdm(questions, desc="judging", unit="reply", disable=None)
        ]

    def _ask(self, question: Question) -> Reply:
        described = {
            **self.settings,
            "system": question.system,
            "text": question.text,
            "repeat": question.repeat,
        }
        key = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
        reply = self._cache.get(key)
        if reply is None:
            reply = self._generate(question, seed=int(key[:8], 16))
            self._cache.add(key, described, reply)
        return reply

    def _generate(self, question: Question, seed: int) -> Reply:
        model, tokenizer = self._model.load()
        inputs = _encode(tokenizer, question).to(model.device)
        chance = (
            {"do_sample": True, "temperature": self._temperature}
            if self._temperature
            else {"do_sample": False}
        )
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)  # of the question, so that the order of questions means nothing
            output = model.generate(
                **inputs,
                max_new_tokens=self._max_tokens,
                pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
                **chance,
            )
        new = output[0, inputs["input_ids"].shape[1] :]
        length = inputs["input_ids"].shape[1]
        finish = "length" if len(new) >= self._max_tokens else "stop"
        return Reply(tokenizer.decode(new, skip_special_tokens=True).strip(), length, len(new), finish)


def _encode(tokenizer: PreTrainedTokenizerBase, question: Question) -> Any:
    if tokenizer.chat_template is None:
        text = question.text if question.system is None else f"{question.system}\n\n{question.text}"
        return tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    system = [] if question.system is None else [{"role": "system", "content": question.system}]
    return tokenizer.apply_chat_template(
        [*system, {"role": "user", "content": question.text}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
