"""Preference optimisation in the plan: two rows a pair, a pass of the reference, and its frozen adapter."""

from __future__ import annotations

import pytest

from llava_rlhf import initialize_policy_model
from llava_rlhf.memory_planning.names import POLICY_INIT
from llava_rlhf.memory_planning.programs import request_of
from llava_rlhf.memory_planning.request import Request
from llava_rlhf.memory_planning.settings import Lengths
from llava_rlhf.memory_planning.trainers import plan_trainer
from llava_rlhf.runs.parsing import StrictParser
from tests.support.tiny_data import dpo_command, policy_command

TEXT = Lengths(query=20, total=40, supervised=10, images=0)


@pytest.fixture
def planned(tiny_data, tiny_base, tmp_path):
    """planned(command, **flags): the plan for rows of text alone."""

    def plan(command, **flags):
        argv = command(tiny_data, tiny_base, tmp_path, **flags)
        values = StrictParser(initialize_policy_model.ARGUMENTS).parse_values(argv)
        return plan_trainer(Request(POLICY_INIT, values, TEXT))

    return plan


def test_a_pass_over_pairs_takes_what_one_over_twice_as_many_dialogues_takes(planned):
    pairs = planned(dpo_command, per_device_train_batch_size=4)
    dialogues = planned(policy_command, per_device_train_batch_size=8)
    encoding, reference, *of_pairs = pairs.phases
    assert reference.name == "reference" and 0 < reference.size < pairs.widest.size
    expected = [encoding, *of_pairs]
    assert [phase.size for phase in expected] == [phase.size for phase in dialogues.phases]
    assert pairs.held == dialogues.held  # the base is the reference: nothing more is kept


def test_a_start_keeps_its_adapter_a_second_time(planned):
    without, with_start = planned(dpo_command), planned(dpo_command, policy_model_name_or_path="policy")
    assert with_start.phases == without.phases
    hidden, half, inner, layers, r = 64, 32, 128, 2, 4
    ends = 2 * (hidden + hidden) + 2 * (hidden + half) + 3 * (hidden + inner)
    assert with_start.held_bytes - without.held_bytes == 4 * layers * r * ends


def test_lengths_are_those_of_the_pairs(tiny_data, tiny_base, tmp_path):
    prepared = initialize_policy_model.prepare(dpo_command(tiny_data, tiny_base, tmp_path))
    settings = (prepared.training, prepared.data, prepared.model, prepared.run, prepared.objective)
    lengths = request_of(POLICY_INIT, settings, prepared.train_set, 1).lengths
    rows = [prepared.train_set[index] for index in range(len(prepared.train_set))]
    answers = [sum(one.supervised) for row in rows for one in (row.chosen, row.rejected)]
    assert lengths.supervised == max(answers)
    assert lengths.total == max(len(one.input_ids) for row in rows for one in (row.chosen, row.rejected))
