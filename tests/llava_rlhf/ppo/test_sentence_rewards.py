"""What each sentence earns: by hand, in a rollout, and that all of it is the score of the whole answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llava_rlhf.assembly.token_text import TokenText
from llava_rlhf.functional.rewards import token_rewards
from llava_rlhf.ppo.arguments import RewardArguments
from llava_rlhf.ppo.micro_batches import MicroBatches
from llava_rlhf.ppo.reward_scores import SentenceScores, scored_ends
from llava_rlhf.ppo.reward_shaping import shape_rewards
from llava_rlhf.ppo.rollout_rows import rollout_row
from llava_rlhf.ppo.targets import Targets
from tests.support.plain_models import PlainRole
from tests.support.ppo_world import assemble

ROWS = list(range(16))
# So warm, some answers of the tiny policy have several sentences.
WARM = {"response_len": 24, "temperature": 2.0}
# Tokens "A cat", ".", " A dog", ".", " It", " is.", stop; and one token with two sentences.
THREE = TokenText("A cat. A dog. It is.", [5, 6, 12, 13, 16, 20, 20])
ONE_TOKEN = TokenText("Yes. No. Ok", [8, 11, 11])


def test_where_answers_are_scored():
    assert scored_ends(THREE) == [6, 13, 20]
    assert scored_ends(ONE_TOKEN) == [8, 11], "sentences of one token are one"
    assert scored_ends(TokenText("Yes. No", [7, 7])) == [7]
    assert scored_ends(TokenText("", [0])) == [0]
    # Cut off with its sentence: no stop token follows.
    assert scored_ends(TokenText("Yes. No.", [4, 8])) == [4, 8]


def test_rewards_by_hand():
    scores = SentenceScores([THREE, ONE_TOKEN], [[6, 13, 20], [8, 11]], [[1.0, 0.5, 2.0], [-1.0, 3.0]])
    assert scores.rewards(0) == [1.0, -0.5, 1.5] and scores.rewards(1) == [-1.0, 4.0]
    early = scores.before_the_last(8)
    expected = torch.zeros(2, 8)
    expected[0, 1], expected[0, 3], expected[1, 0] = 1.0, -0.5, -1.0
    assert torch.equal(early, expected)
    mask = torch.arange(8) < torch.tensor([[7], [3]])
    # Of 2 − 8 and 3 with a penalty of −8: what is not early stands on the stop token.
    rewards = token_rewards(torch.tensor([-6.0, 3.0]), torch.zeros(2, 8), mask, 0.1, early)
    expected[0, 6], expected[1, 2] = -6.5, 4.0
    assert torch.equal(rewards, expected)
    assert rewards.sum(dim=1).tolist() == [-6.0, 3.0]


@pytest.fixture(scope="module")
def sentences(command):
    """A rollout whose answers are scored by sentence, and the parts that made it."""
    parts = assemble(command(reward_placement="sentence", **WARM), spread=0.05)
    return parts, parts.collect(ROWS)


def test_some_answers_have_several_sentences(sentences):
    counts = [len(ends) for ends in sentences[1].sentences.ends]
    assert min(counts) == 1 and max(counts) > 1
    assert "" in sentences[1].texts, "an answer without text is scored, too"


def test_scores_and_answers_are_those_of_the_last_token(command, sentences):
    plain = assemble(command(**WARM), spread=0.05).collect(ROWS)
    found = sentences[1]
    assert plain.sentences is None
    assert torch.equal(plain.responses, found.responses) and plain.texts == found.texts
    assert torch.equal(plain.values, found.values)
    torch.testing.assert_close(found.scores, plain.scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("relative", [True, False])
def test_rewards_add_up_to_those_of_the_last_token(sentences, relative):
    _, found = sentences
    arguments = RewardArguments(relative_stop_token_penalty=relative, reward_bias=0.5)
    shaped = shape_rewards(found, 24, arguments, kl_coef=0.1)
    last = shape_rewards(replace(found, sentences=None), 24, arguments, kl_coef=0.1)
    torch.testing.assert_close(shaped.rewards.sum(1), last.rewards.sum(1), rtol=0, atol=1e-5)
    assert torch.equal(shaped.score, last.score) and torch.equal(shaped.non_score, last.non_score)
    moved = (shaped.rewards != last.rewards).sum(dim=1).tolist()
    assert moved == [len(ends) if len(ends) > 1 else 0 for ends in found.sentences.ends]


def test_each_beginning_is_scored_as_a_plain_hugging_face_model_scores_it(sentences, tmp_path):
    parts, found = sentences
    role = parts.roles.reward
    role.bank.save(role.adapter, tmp_path / "adapter")
    role.head.save(tmp_path / "head.safetensors")
    base = role.bank.vlm.model.config._name_or_path
    plain = PlainRole(base, tmp_path / "adapter", tmp_path / "head.safetensors")
    several = [row for row in ROWS if len(found.sentences.ends[row]) > 1]
    for row, item in zip(several, parts.batch(several).items, strict=True):
        response = found.responses[row][found.response_mask[row]].tolist()
        scores = []
        for end in found.sentences.ends[row][:-1]:
            tokens = found.sentences.texts[row].token_of(end) + 1
            text = parts.prepared.text.tokenizer.decode(response[:tokens], skip_special_tokens=True)
            assert text.lstrip().startswith(found.texts[row][:end])
            ids = [*item.query_ids, *response[:tokens], *item.reward_prompt_ids]
            scores.append(float(plain.score(ids, item.images)))
        assert found.sentences.scores[row] == pytest.approx([*scores, float(found.scores[row])], abs=2e-5)


@pytest.mark.parametrize(("rows", "tokens"), [(1, 0), (5, 0), (16, 150)])
def test_no_score_depends_on_what_is_scored_together(sentences, monkeypatch, rows, tokens):
    parts, found = sentences
    scorer = parts.trainer.collector.scorer
    monkeypatch.setattr(
        parts.trainer.collector,
        "scorer",
        type(scorer)(scorer.rewards, MicroBatches(rows, tokens), scorer.pad_id),
    )
    other = parts.collect(ROWS)
    assert other.sentences.ends == found.sentences.ends
    for mine, its in zip(other.sentences.scores, found.sentences.scores, strict=True):
        assert mine == pytest.approx(its, rel=1e-5, abs=1e-5)


def test_only_answers_of_several_sentences_cost_more(sentences, monkeypatch):
    parts, found = sentences
    scored = []
    monkeypatch.setattr(MicroBatches, "run", lambda self, lengths, work: scored.append(len(lengths)))
    collector = parts.trainer.collector
    ids = [row[real].tolist() for row, real in zip(found.responses, found.response_mask, strict=True)]
    collector.scorer.sentence_scores(found.items, ids, found.reward_images, found.sentences.texts)
    assert scored == [sum(len(ends) for ends in found.sentences.ends)]


def test_no_pass_is_larger_than_those_that_memory_is_planned_for(sentences):
    """Planned are full batches of the longest answers; beginnings are shorter, and batches as large as before."""
    parts, found = sentences
    scorer, shapes = parts.trainer.collector.scorer, []
    hook = scorer.rewards[0].register_forward_pre_hook(lambda module, given: shapes.append(given[0].shape))
    try:
        parts.collect(ROWS)
    finally:
        hook.remove()
    longest = max(length for _, length in shapes)
    ids = [row[real].tolist() for row, real in zip(found.responses, found.response_mask, strict=True)]
    whole = len(shapes)
    try:
        hook = scorer.rewards[0].register_forward_pre_hook(
            lambda module, given: shapes.append(given[0].shape)
        )
        scorer.scores(found.items, ids, found.reward_images)
    finally:
        hook.remove()
    assert longest == max(length for _, length in shapes[whole:])
    assert (
        max(rows for rows, _ in shapes[:whole])
        <= scorer.batches.max_rows
        < sum(len(ends) for ends in found.sentences.ends)
    )


def test_a_written_row_tells_what_its_sentences_earned(sentences):
    _, found = sentences
    shaped = shape_rewards(found, 24, RewardArguments(), kl_coef=0.1)
    row = max(ROWS, key=lambda row: len(found.sentences.ends[row]))
    written = rollout_row(found, shaped, Targets(found.log_probs, found.counted), row, 24)
    assert "value" not in written and "return" not in written, "no critic said anything"
    assert [sentence["end"] for sentence in written["sentences"]] == found.sentences.ends[row]
    assert sum(sentence["reward"] for sentence in written["sentences"]) == pytest.approx(
        written["reward_model"], abs=1e-6
    )
    assert written["sentences"][-1]["end"] == len(written["response"])


def test_padding_that_counts_changes_no_reward_but_the_place_of_the_last(command, sentences):
    """Published numerics: the score stands in the last of all columns, rewards of sentences where they end."""
    parts = assemble(command(reward_placement="sentence", numerics="published", **WARM), spread=0.05)
    found = parts.collect(ROWS)
    arguments = RewardArguments(kl_coef=0.0)
    published, plain = (shape_rewards(each, 24, arguments, 0.0).rewards for each in (found, sentences[1]))
    assert published.shape[1] == 24
    torch.testing.assert_close(published.sum(1), plain.sum(1), rtol=1e-5, atol=1e-5)
    several = [row for row in ROWS if len(found.sentences.ends[row]) > 1]
    assert several
    for row in several:
        first = found.sentences.texts[row].token_of(found.sentences.ends[row][0])
        assert published[row, first] == pytest.approx(float(plain[row, first]), abs=1e-5)
        assert published[row, -1] != 0
