"""What a user can get wrong is refused by `prepare`, which loads no model: this base can't be loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from data_utils.facts import RewardPrompt
from data_utils.problems import DataError
from llava_rlhf import score
from tests.llava_rlhf.evaluation.scoring import score_command, train_reward, with_card, write_scoring_data
from tests.support.tiny_data import FACT_PROMPT, TinyData, changed
from tests.support.tiny_models import TinyShape, save_tiny_base, save_unloadable_copy


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> TinyData:
    return write_scoring_data(tmp_path_factory.mktemp("score") / "tiny data")


@pytest.fixture(scope="module")
def reward(data, tiny_base, tmp_path_factory) -> Path:
    return train_reward(data, tiny_base, tmp_path_factory.mktemp("score") / "reward", max_steps=1)


@pytest.fixture(scope="module")
def unloadable(tiny_base, tmp_path_factory) -> Path:
    """A base that can't be loaded, only read."""
    return save_unloadable_copy(tiny_base, tmp_path_factory.mktemp("score") / "unloadable")


@pytest.fixture
def prepare(data, reward, unloadable, tmp_path):
    """prepare(**changes): check a command line; no model could be loaded."""

    def _prepare(**changes):
        changes = {"base_model_name": unloadable, **changes}
        return score.prepare(score_command(data, reward, tmp_path / "scores.jsonl", **changes))

    return _prepare


def test_what_the_reward_model_was_trained_with_may_be_said_again(prepare, data, tmp_path):
    moved = tmp_path / "moved.txt"
    moved.write_text(f"\n{FACT_PROMPT}\n")
    again = prepare(reward_prompt_file=moved, facts=True, version="tiny", image_aspect_ratio="pad")
    plain = prepare()
    assert [item.input_ids for item in again.dataset] == [item.input_ids for item in plain.dataset]
    assert len(plain.dataset) == 16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"facts": False}, "facts: trained with True, now False"),
        (
            {"reward_prompt_file": "plain_prompt"},
            r"prompt: trained with .*\{factual_prompt\}.*, now 'USER: is",
        ),
        ({"version": "v1"}, "template: trained with 'tiny', now 'v1'"),
        ({"image_aspect_ratio": "square"}, "image_aspect_ratio: trained with 'pad', now 'square'"),
    ],
)
def test_other_conditions_are_refused(settings, message, prepare, data):
    if "reward_prompt_file" in settings:
        settings = {"reward_prompt_file": data.plain_prompt}
    with pytest.raises(
        ValueError, match=f"trained under other conditions: .*{message}.*Leave these flags out"
    ):
        prepare(**settings)


def test_all_differences_are_listed(prepare, data):
    with pytest.raises(ValueError) as refused:
        prepare(reward_prompt_file=data.plain_prompt, version="v1", image_aspect_ratio="square")
    assert all(
        f"{name}: trained" in str(refused.value)
        for name in ("prompt", "facts", "template", "image_aspect_ratio")
    )


def test_a_reward_model_without_facts_reads_none(data, tiny_base, tmp_path):
    """Trained with --facts False on the factual prompt: the same file and flags fit, and so does no flag.

    The file alone asks for facts, as it does in training and PPO.
    """
    blind_prompt = tmp_path / "blind.txt"
    blind_prompt.write_text(RewardPrompt(FACT_PROMPT).without_facts().text)
    blind = train_reward(data, tiny_base, tmp_path / "blind", max_steps=1, facts=False)
    runs = [
        score.prepare(score_command(data, blind, tmp_path / "s.jsonl", **settings))
        for settings in (
            {},
            {"image_to_caption_file": None},
            {"reward_prompt_file": data.fact_prompt, "facts": False},
            {"reward_prompt_file": blind_prompt},
            {"reward_prompt_file": blind_prompt, "facts": False},
        )
    ]
    ids = [[item.input_ids for item in run.dataset] for run in runs]
    assert all(other == ids[0] for other in ids)
    with pytest.raises(ValueError, match="facts: trained with False, now True"):
        score.prepare(score_command(data, blind, tmp_path / "s.jsonl", facts=True))
    with pytest.raises(
        ValueError, match=r"prompt: trained with .*, now .*factual_prompt.*facts: trained with False"
    ):
        score.prepare(score_command(data, blind, tmp_path / "s.jsonl", reward_prompt_file=data.fact_prompt))


def test_a_base_that_does_not_fit_is_refused(prepare, reward, tiny_base, tiny_reward_base, tmp_path):
    with pytest.raises(ValueError, match="was trained on another base"):
        prepare(base_model_name=tiny_reward_base)
    with pytest.raises(ValueError, match=r"/no/such/base, is no directory.*--base_model_name"):
        prepare(base_model_name="/no/such/base")
    gone = with_card(reward, tmp_path / "gone", base_model="/it/has/moved")
    with pytest.raises(ValueError, match=r"/it/has/moved, is no directory.*--base_model_name"):
        prepare(reward_model_name_or_path=gone, base_model_name=None)
    assert len(prepare(reward_model_name_or_path=gone).dataset) == 16
    # The same language model with another tower: only the base of the training, if it is still there, tells.
    larger = shutil.copytree(tiny_base, tmp_path / "larger images")
    config = json.loads((larger / "config.json").read_text())
    config["vision_config"]["image_size"] = 42
    (larger / "config.json").write_text(json.dumps(config))
    processor = larger / "processor_config.json"
    processor.write_text(processor.read_text().replace("28", "42"))  # which goes with that tower
    with pytest.raises(ValueError, match=r"is another model than .*positions=9.*not .*positions=4"):
        prepare(base_model_name=larger)


def test_a_base_of_the_same_shape_with_other_weights_is_refused(prepare, tiny_base, reward, tmp_path):
    other = save_tiny_base(tmp_path / "other", TinyShape(seed=5))
    with pytest.raises(
        ValueError, match=r"reward was trained on a base with other weights than .*--base_model_name"
    ):
        prepare(base_model_name=other)
    # Also where the card names the base of its training, and that has changed since.
    changed_since = with_card(reward, tmp_path / "changed", base_model=str(other))
    with pytest.raises(ValueError, match="other weights than"):
        prepare(reward_model_name_or_path=changed_since, base_model_name=None)


def test_a_base_elsewhere_is_named(prepare, caplog, unloadable):
    assert prepare().base == str(unloadable)
    assert "the scores are taken on" in caplog.text and str(unloadable) in caplog.text


def test_a_card_that_nobody_here_understands_is_refused(prepare, reward, tmp_path):
    other = with_card(reward, tmp_path / "other", template="vicuna_v9")
    with pytest.raises(ValueError, match="unknown template 'vicuna_v9'"):
        prepare(reward_model_name_or_path=other)
    with pytest.raises(ValueError, match="is not a reward model"):
        prepare(reward_model_name_or_path=tmp_path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "what?", "text": "a cat"}], r"fields of the first row: \['prompt', 'text'\]"),
        ([{"question": "what?", "answer": "a cat", "image": "absent.jpg"}], "absent.jpg.*no such file"),
        (
            [{"question": "what?", "answer": "a cat", "image": "unmapped.png"}],
            "no captions under 'unmapped.png'",
        ),
    ],
)
def test_answers_that_cannot_be_scored_are_refused(rows, message, prepare, tmp_path):
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(DataError, match=message):
        prepare(dataset_path=path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image": "absent.jpg"}, r"row 4, field 'image': value 'absent.jpg'.*no such file"),
        ({"image": "unmapped.png"}, r"row 4, field 'image'.*no captions under 'unmapped.png'"),
        ({"preference": 0}, "row 4, field 'preference': value 0 — must be 1 or 2"),
        (
            {"caption_type": "yes"},
            "row 4, field 'caption_type': value 'yes' — must be an integer from 1 to 7",
        ),
    ],
)
def test_pairs_that_cannot_be_scored_are_refused(fields, message, prepare, data, request):
    def change(rows):
        rows[4].update(fields)

    path = changed(data.preferences, f"bad pair {[*fields]}{len(message)}.json", change)
    with pytest.raises(DataError, match=message):
        prepare(dataset_path=path)


def test_missing_captions_follow_their_flag(prepare):
    with pytest.raises(DataError, match=r"row 0, field 'image'.*no captions under '000000000000.jpg'"):
        prepare(image_to_caption_file=None)
    assert len(prepare(image_to_caption_file=None, missing_captions="no_fact").dataset) == 16
    assert 0 < len(prepare(image_to_caption_file=None, missing_captions="skip").dataset) < 16


def test_outputs_that_cannot_be_written_are_refused(prepare, data, tmp_path):
    with pytest.raises(ValueError, match=r"is a directory; name a file|is no directory"):
        prepare(output_file=tmp_path)
    with pytest.raises(ValueError, match=r"is a directory; name a file|is no directory"):
        prepare(output_file=data.preferences / "scores.jsonl")
    with pytest.raises(ValueError, match="is the file to be scored"):
        prepare(output_file=data.preferences)
    with pytest.raises(ValueError, match="--batch_size 0"):
        prepare(batch_size=0)


def test_broken_weights_are_noticed_by_run_and_nothing_is_written(prepare, tmp_path):
    prepared = prepare()
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        score.run(prepared)
    assert list(tmp_path.iterdir()) == []
