"""A rollout: what a row says and earns is its own affair, and some tokens are never said."""

from __future__ import annotations

import pytest
import torch

from llava_rlhf.assembly.roles import unsampled_ids
from llava_rlhf.ppo.actor_critic import response_log_probs
from tests.support.plain_models import PlainRole
from tests.support.ppo_world import assemble, random_numbers
from tests.support.tiny_data import ppo_command
from tests.support.tiny_models import IMAGE, STOP, tiny_tokenizer

ROWS = [0, 2, 3, 5, 6, 9]  # one image, two images, no image, own captions, two images, one image
QUESTION_MARK = tiny_tokenizer().convert_tokens_to_ids("?")


@pytest.fixture(scope="module")
def two_bases(tiny_data, tiny_base, policy_run, own_base_reward_run, tmp_path_factory):
    """Policy and reward model see the same image at different sizes."""
    folder = tmp_path_factory.mktemp("ppo")
    return assemble(ppo_command(tiny_data, tiny_base, policy_run, own_base_reward_run, folder), spread=0.05)


def favour(vlm, token, by=1e4):
    """Make `token` by far the most likely one; returns the handle that undoes it."""

    def add(module, inputs, logits):
        bonus = torch.zeros(logits.shape[-1])
        bonus[token] = by
        return logits + bonus

    return vlm.model.lm_head.register_forward_hook(add)


def rows_of(experience, row):
    """Everything said of one row, without its padding."""
    real = experience.response_mask[row]
    numbers = {
        name: getattr(experience, name)[row][real]
        for name in ("log_probs", "ref_log_probs", "entropies", "ref_entropies", "values")
    }
    return experience.responses[row][real].tolist(), {**numbers, "scores": experience.scores[row]}


@pytest.mark.parametrize("world", ["parts", "two_bases"])
def test_a_row_does_not_depend_on_its_neighbours(world, request):
    assembled = request.getfixturevalue(world)
    together, pairs = assembled.collect(ROWS), assembled.collect(ROWS, size=2)
    assert len({int(length) for length in together.lengths}) > 1
    for position, row in enumerate(ROWS):
        alone = rows_of(assembled.collect([row]), 0)
        for other in (rows_of(together, position), rows_of(pairs, position)):
            assert other[0] == alone[0], f"row {row} answers differently beside others"
            for name, value in alone[1].items():
                torch.testing.assert_close(other[1][name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_padding_holds_zeros_and_rows_keep_their_order(parts):
    experience = parts.collect(ROWS, size=2)
    assert [item.row for item in experience.items] == ROWS
    for name in ("log_probs", "ref_log_probs", "entropies", "ref_entropies", "values"):
        assert not getattr(experience, name)[~experience.response_mask].any(), name
    assert torch.equal(experience.stopped, (experience.responses == STOP).any(dim=1))


@pytest.mark.parametrize("world", ["parts", "two_bases"])
def test_the_four_roles_say_what_plain_hugging_face_models_say(world, request, tmp_path):
    assembled = request.getfixturevalue(world)
    roles, experience = assembled.roles, assembled.collect(ROWS)
    plain = {}
    for role in (roles.policy, roles.reference, roles.value, roles.reward):
        role.bank.save(role.adapter, tmp_path / role.adapter)
        head = None
        if hasattr(role, "head"):
            head = tmp_path / f"{role.adapter}.safetensors"
            role.head.save(head)
        base = role.bank.vlm.model.config._name_or_path
        plain[role.adapter] = PlainRole(base, tmp_path / role.adapter, head)
    with torch.no_grad():
        for row, item in enumerate(assembled.batch(ROWS).items):
            response, numbers = rows_of(experience, row)
            assert experience.items[row].row == item.row and experience.items[row].images is None
            reward_images = item.images if item.reward_images is None else item.reward_images
            mine = plain["lora_policy"].response_log_probs(item.query_ids, response, item.images, 1.0)
            its = plain["lora_ref_policy"].response_log_probs(item.query_ids, response, item.images, 1.0)
            expected = {
                "log_probs": mine[0],
                "entropies": mine[1],
                "ref_log_probs": its[0],
                "ref_entropies": its[1],
                "values": plain["lora_value"].response_values(item.query_ids, response, reward_images),
                "scores": plain["lora_reward"].score(
                    [*item.query_ids, *response, *item.reward_prompt_ids], reward_images
                ),
            }
            for name, value in expected.items():
                torch.testing.assert_close(numbers[name], value, rtol=1e-4, atol=2e-5, msg=name)
            assert not torch.allclose(mine[0], its[0], atol=1e-2)


def test_a_critic_that_sees_facts_reads_the_reward_prompt_before_the_response(command, tmp_path):
    plain = assemble(command(), spread=0.05).collect(ROWS)
    parts = assemble(command(value_sees_facts=True), spread=0.05)
    seeing, value = parts.collect(ROWS), parts.roles.value
    assert torch.equal(seeing.responses, plain.responses)
    for name in ("log_probs", "ref_log_probs", "scores"):
        torch.testing.assert_close(getattr(seeing, name), getattr(plain, name), rtol=1e-4, atol=1e-5)
    value.bank.save(value.adapter, tmp_path / "value")
    value.head.save(tmp_path / "head.safetensors")
    base = value.bank.vlm.model.config._name_or_path
    critic = PlainRole(base, tmp_path / "value", tmp_path / "head.safetensors")
    lengths = []
    for row, item in enumerate(seeing.items):
        response, numbers = rows_of(seeing, row)
        prompt = [*item.query_ids, *item.reward_prompt_ids]
        with torch.no_grad():
            expected = critic.response_values(prompt, response, parts.batch([item.row]).items[0].images)
        torch.testing.assert_close(numbers["values"], expected, rtol=1e-4, atol=2e-5)
        lengths.append(plain.sequence_lengths[row] + len(item.reward_prompt_ids))
    assert seeing.sequence_lengths == lengths


def test_the_image_token_is_never_sampled_and_takes_no_probability(parts):
    plain = parts.collect(ROWS)
    handle = favour(parts.roles.policy.bank.vlm, IMAGE)
    try:
        favoured = parts.collect(ROWS)
    finally:
        handle.remove()
    assert not (favoured.responses == IMAGE).any()
    assert torch.equal(favoured.responses, plain.responses)
    torch.testing.assert_close(favoured.log_probs, plain.log_probs)


@pytest.mark.parametrize(("on", "length"), [(True, 1), (False, 6)])
def test_a_question_mark_ends_a_response_only_when_asked_to(command, on, length):
    parts = assemble(command(stop_at_question_mark=on))
    favour(parts.roles.policy.bank.vlm, QUESTION_MARK)
    experience = parts.collect(ROWS[:3])
    assert (experience.responses[experience.response_mask] == QUESTION_MARK).all()
    assert experience.lengths.tolist() == [length] * 3
    assert not experience.stopped.any(), "an answer that was cut off never said stop"


def test_an_answer_that_is_only_the_stop_token_is_an_answer(command):
    parts = assemble(command())
    favour(parts.roles.policy.bank.vlm, STOP)
    experience = parts.collect(ROWS[:3])
    assert experience.lengths.tolist() == [1, 1, 1] and bool(experience.stopped.all())
    assert experience.texts == ["", "", ""]
    assert torch.isfinite(experience.scores).all()


def test_temperature_divides_the_logits_of_every_log_probability(command):
    parts = assemble(command(temperature=0.5), spread=0.05)
    experience = parts.collect(ROWS[:2])
    collector = parts.trainer.collector
    features = experience.policy_images.select([0, 1])
    sequences = collector.policy_sequences(experience.items, experience.rows([0, 1]), features)
    with torch.no_grad():
        states = parts.roles.policy.response_states(*sequences)
        logits = parts.roles.policy.project(states) * 2.0
        logits[..., IMAGE] = -torch.inf
        expected = logits.log_softmax(-1).gather(-1, experience.responses.unsqueeze(-1)).squeeze(-1)
        again, _ = response_log_probs(
            parts.roles.policy, sequences, experience.response_mask, collector.scoring
        )
    real = experience.response_mask
    torch.testing.assert_close(experience.log_probs[real], expected[real], rtol=1e-5, atol=1e-5)
    assert torch.equal(again, experience.log_probs)


def test_the_same_random_numbers_give_the_same_answers(parts):
    first, second = parts.collect(ROWS), parts.collect(ROWS)
    assert torch.equal(first.responses, second.responses)
    batches = [parts.batch(ROWS)]
    other = parts.trainer.collector.collect(batches, 1.0 - random_numbers(ROWS))
    assert not torch.equal(other.response_mask.sum(1), first.lengths) or not torch.equal(
        other.responses, first.responses
    )


def test_the_reward_model_reads_the_reward_prompt_and_the_captions(parts, tiny_data, command):
    plain = assemble(command(facts=False, allow_prompt_change=True), spread=0.05)
    with_facts, without = parts.collect(ROWS), plain.collect(ROWS)
    assert torch.equal(with_facts.responses, without.responses), "the policy never sees the captions"
    assert torch.equal(with_facts.values, without.values), "nor does the value model"
    differs = (with_facts.scores - without.scores).abs() > 1e-4
    assert differs.tolist() == [bool(item.captions) for item in with_facts.items]


def test_a_question_mark_ends_nothing_by_default(command):
    parts = assemble(command())
    favour(parts.roles.policy.bank.vlm, QUESTION_MARK)
    experience = parts.collect(ROWS[:3])
    assert experience.lengths.tolist() == [6, 6, 6]


def test_vocabulary_rows_that_stand_for_no_token_are_never_sampled(parts):
    size = len(tiny_tokenizer())
    assert unsampled_ids(parts.prepared.text, size).tolist() == [IMAGE]
    assert unsampled_ids(parts.prepared.text, size + 3).tolist() == [IMAGE, size, size + 1, size + 2]
