"""One question whose answer shows which weights a server has: its log-probabilities beside those of the model that trains.

A server takes an adapter whose tensors find no place, and answers without it; it may have another base, read pictures in
another way, or keep what it read of an older adapter. Each of them answers well-formed, and with other numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data_utils.batches import collate_prompts
from data_utils.datasets import PromptDataset
from data_utils.items import PromptItem
from llava_rlhf.assembly.image_features import encode_images
from llava_rlhf.engines.answer import WrongAnswerError, read_answer
from llava_rlhf.engines.http import Server
from llava_rlhf.engines.prompts import PromptWriter
from llava_rlhf.engines.request import GENERATE, generate_body, sampling_params
from llava_rlhf.runs.stopping import EngineError
from models.generation import SamplingSettings
from models.roles import Policy

TOKENS = 16
LIKELY = 5  # tokens at each place that are compared, beside the drawn one
UNLIKELY = -10.0  # nats: below, roundings are large, and nobody draws such tokens
SEED = 1
LOOKED_AT = 256  # prompts among which the probe is chosen
# Largest difference in float32, nats: 5e-6 to 2e-5 were measured, another adapter gives 1e-2 and more.
EXACT = 1e-3
# Mean difference in 16 bits: up to 0.02 was measured, single tokens are off by .3.
ROUNDED = 0.1


class ProbeAnswer(NamedTuple):
    """What a server says at the probe.

    Attributes:
        ids: int, `TOKENS` of them.
        entries: (place in `ids`, token, log-probability) of the tokens that are compared.
    """

    ids: tuple[int, ...]
    entries: tuple[tuple[int, int, float], ...]


@dataclass(frozen=True)
class Probe:
    """The question.

    Attributes:
        item: the prompt, with its pixels.
        writer: of prompts.
        settings: how the run's prompts are answered.
    """

    item: PromptItem
    writer: PromptWriter
    settings: SamplingSettings

    async def ask(self, server: Server, model: str) -> ProbeAnswer:
        """What a server answers. Raises EngineError: it read another prompt; others as `Server.post`."""
        # Drawn tokens, none of which ends it: greedy ones are likely under any weights.
        settings = replace(self.settings, max_new_tokens=TOKENS, stop_ids=(), temperature=self.temperature)
        sampling = {**sampling_params(settings, SEED), "logprobs": LIKELY}
        prompt = self.writer.write(self.item)
        reply = await server.post(GENERATE, generate_body(model, prompt.token_ids, prompt.pictures, sampling))
        try:
            answer, _ = read_answer(reply, model, prompt.expanded)
        except WrongAnswerError as error:
            raise EngineError(
                f"{server.url}, asked row {self.item.row} of the prompts: {error}. Base and image processor there must be those "
                "of training"
            ) from error
        return ProbeAnswer(tuple(answer.ids), tuple(_entries(reply["choices"][0]["logprobs"]["content"])))

    @property
    def temperature(self) -> float:
        """Of the answer, and of the log-probabilities that it is compared with."""
        return self.settings.temperature or 1.0

    @torch.no_grad()
    def own_log_probs(self, policy: Policy, ids: Sequence[int]) -> Tensor:
        """float32[T, V]: what the model that trains says at each place of an answer `ids`. All processes call it."""
        vlm = policy.bank.vlm
        images = collate_prompts([self.item]).images
        features = encode_images(vlm, images)
        prompt = self.writer.write(self.item).expanded
        row = torch.tensor([[*prompt, *ids]], device=vlm.device)
        columns = torch.arange(len(prompt), row.shape[1], device=vlm.device).unsqueeze(0)
        states = policy.response_states(row, None, features, columns)[0]
        logits = policy.project(states).float() / self.temperature
        banned = torch.tensor(self.settings.banned_ids, dtype=torch.long, device=logits.device)
        return logits.index_fill(1, banned, -torch.inf).log_softmax(dim=1).cpu()


def differences(answer: ProbeAnswer, table: Tensor, ids: Sequence[int]) -> Tensor:
    """float32[K] in nats: by how much an answer's log-probabilities differ from float32[T, V], which was taken along `ids`.

    Compared is the part in which both drew the same, and the place at which they part.
    """
    same = next(
        (at for at, pair in enumerate(zip(answer.ids, ids, strict=True)) if len({*pair}) > 1), len(ids)
    )
    found = [
        abs(value - float(table[place, token]))
        for place, token, value in answer.entries
        if place <= same and value > UNLIKELY
    ]
    return torch.tensor(found)


def fits(difference: Tensor, exact: bool) -> bool:
    """Whether such differences are roundings, of float32 (`exact`) or of 16 bits."""
    if not len(difference) or not bool(difference.isfinite().all()):
        return False
    return float(difference.max()) <= EXACT if exact else float(difference.mean()) <= ROUNDED


def choose_probe(prompts: PromptDataset, writer: PromptWriter, settings: SamplingSettings) -> Probe:
    """The longest of the first prompts, with a picture where there is one: longer than a block of a server's prefix cache."""
    rows = range(min(len(prompts), LOOKED_AT))
    first = prompts.select(rows)
    names, ids = first.column("images"), first.column("query_ids")
    best = max(rows, key=lambda row: (bool(names[row]), len(ids[row])))
    return Probe(prompts.with_features(None)[best], writer, settings)


def _entries(content: Sequence[dict[str, Any]]) -> list[tuple[int, int, float]]:
    found: dict[tuple[int, int], float] = {}
    for place, told in enumerate(content):
        for entry in (told, *told.get("top_logprobs", ())):
            value = entry["logprob"]
            found[place, entry["token_id"]] = float("nan") if value is None else value
    return [(*key, value) for key, value in found.items()]
