"""Who answers: the policy of this process, or anything else that keeps to the interface."""

from __future__ import annotations

from dataclasses import replace
from itertools import repeat

import torch

from data_utils.batches import left_pad
from llava_rlhf.assembly.image_features import expand_query
from llava_rlhf.engines.policy_engine import PolicyEngine
from models.generation import Sample
from tests.support.ppo_world import assemble, random_numbers
from tests.support.tiny_models import STOP

ROWS = [0, 2, 3, 5]


class Parrot:
    """Answers every prompt with its own last tokens, as many as its row says."""

    def __init__(self, settings, lengths):
        self.settings, self.lengths, self.seen = settings, lengths, []

    def begin_step(self, step):
        raise AssertionError("nobody said that weights moved")

    def rest(self):
        """Nothing is held."""

    def start(self, batch, uniforms, features):
        self.seen.append((batch, uniforms, features))
        ids = torch.full((len(batch.items), max(self.lengths)), self.settings.pad_id)
        mask = torch.zeros(ids.shape, dtype=torch.bool)
        for row, (item, length) in enumerate(zip(batch.items, self.lengths, strict=True)):
            ids[row, :length] = torch.tensor([*item.query_ids[-length + 1 :], STOP])
            mask[row, :length] = True
        return lambda: Sample(ids, mask, log_probs=-ids.float() * mask)


def test_the_policy_answers_by_default(parts):
    engine = parts.trainer.collector.engine
    assert isinstance(engine, PolicyEngine) and engine.policy is parts.roles.policy and engine.merge_adapter
    batch, vlm = parts.batch(ROWS), parts.roles.policy.bank.vlm
    features = vlm.encode_images(batch.images.pixel_values, batch.images.image_index)
    queries = [expand_query(i.query_ids, repeat(()), vlm) for i in batch.items]
    prompts = left_pad(queries, engine.settings.pad_id)
    expected = parts.roles.policy.sample(*prompts, features, engine.settings, random_numbers(ROWS), False)
    for merge in (True, False):
        found = replace(engine, merge_adapter=merge).start(batch, random_numbers(ROWS), features)()
        assert torch.equal(found.ids, expected.ids) and torch.equal(found.mask, expected.mask)


def test_merging_can_be_switched_off(command):
    collector = assemble(command(merge_adapter_for_sampling=False)).trainer.collector
    assert not collector.engine.merge_adapter


def test_another_engine_can_take_its_place(parts):
    """Its answers are scored, and it was given what an engine needs."""
    collector, lengths = parts.trainer.collector, [3, 6, 4, 2]
    engine = Parrot(collector.engine.settings, lengths)
    collector.engine, before = engine, collector.engine
    try:
        experience = parts.collect(ROWS)
    finally:
        collector.engine = before
    ((batch, uniforms, features),) = engine.seen
    assert [item.row for item in batch.items] == ROWS
    assert torch.equal(uniforms, random_numbers(ROWS))
    assert len(features.lengths) == sum(len(item.image_names) for item in batch.items)
    assert experience.lengths.tolist() == lengths and experience.stopped.all()
    for row, item in enumerate(batch.items):
        real = experience.response_mask[row]
        assert experience.responses[row][real].tolist() == [*item.query_ids[-lengths[row] + 1 :], STOP]
        assert (experience.log_probs[row][real] < 0).all()
    assert torch.equal(experience.engine_log_probs, -experience.responses.float() * experience.response_mask)
