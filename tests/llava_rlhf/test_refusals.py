"""What a user can get wrong is refused by `prepare`, which never loads a model: this base can't be loaded."""

from __future__ import annotations

import shutil

import pytest

from data_utils.problems import DataError
from llava_rlhf.runs.run_folder import read_json_lines
from tests.support.tiers import tiered
from tests.support.tiny_data import FACT_PROMPT, changed
from tests.support.tiny_models import TinyShape, save_tiny_base, save_unloadable_copy
from tests.support.tiny_programs import PROGRAMS, prepare_program

FILES = {"reward": "preferences", "policy": "dialogues", "ppo": "prompts"}


@pytest.fixture(scope="module")
def unloadable_base(tiny_base, tmp_path_factory):
    return save_unloadable_copy(tiny_base, tmp_path_factory.mktemp("bases") / "unloadable")


@pytest.fixture
def prepare(unloadable_base, tiny_data, policy_run, reward_run, tmp_path):
    """prepare(program, **changes): check a command line."""

    def _prepare(program, **changes):
        folders = (policy_run, reward_run, tmp_path / "run")
        return prepare_program(program, tiny_data, unloadable_base, *folders, **changes)

    return _prepare


@pytest.fixture
def edited(tiny_data, request):
    """edited(program, change): the program's data file with changed rows."""

    def _edited(program, change):
        name = f"{request.node.name.replace('/', '_')[:80]}.json"
        return changed(getattr(tiny_data, FILES[program]), name, change)

    return _edited


@pytest.mark.parametrize("program", PROGRAMS)
def test_good_data_passes_without_loading(program, prepare):
    prepared = prepare(program)
    dataset = prepared.prompts if program == "ppo" else prepared.train_set
    assert len(dataset) == 16


def set_field(row, **fields):
    def change(rows):
        rows[row].update(fields)

    return change


BAD_ROWS = [
    ("reward", {"preference": 3}, r"row 4, field 'preference': value 3 — must be 1 or 2"),
    ("reward", {"output_2": {"from": "gpt", "value": " "}}, r"row 4, field 'output_2.value'.*not be empty"),
    ("reward", {"image": "absent.jpg"}, r"row 4, field 'image': value 'absent.jpg'.*no such file"),
    ("policy", {"conversations": [{"from": "human", "value": "<image>\nwhat?"}]}, "needs a gpt message"),
    ("policy", {"image": "../secret.jpg"}, "must be a path relative to the image folder"),
    ("policy", {"id": 1.5}, r"row 4, field 'id': value 1.5"),
    ("ppo", {"caption_type": 8}, r"row 4, field 'caption_type': value 8.*from 1 to 7"),
    ("ppo", {"length_bonus": "long"}, r"row 4, field 'length_bonus'"),
    ("ppo", {"image": ["000000000000.jpg", "000000000001.jpg"]}, r"1 marker\(s\) for 2 image\(s\)"),
]


@pytest.mark.parametrize(("program", "fields", "message"), BAD_ROWS)
def test_a_bad_row_is_refused_with_its_place(program, fields, message, prepare, edited):
    path = edited(program, set_field(4, **fields))
    with pytest.raises(DataError, match=message):
        prepare(program, dataset_path=path)
    # …and dropped and counted when asked to.
    prepared = prepare(program, dataset_path=path, skip_invalid=True)
    dataset = prepared.prompts if program == "ppo" else prepared.train_set
    assert len(dataset) == 15 and sum(dataset.report.dropped.values()) == 1


@pytest.mark.parametrize("program", ["reward", "ppo"])
def test_a_missing_caption_is_an_error_a_dropped_row_or_no_fact(program, prepare, edited):
    def change(rows):
        rows[5].pop("captions")  # its image is not in the caption map

    path = edited(program, change)
    with pytest.raises(DataError, match=r"row 5, field 'image'.*unmapped\.png"):
        prepare(program, dataset_path=path)
    for policy, kept in (("skip", 15), ("no_fact", 16)):
        prepared = prepare(program, dataset_path=path, missing_captions=policy)
        dataset = prepared.prompts if program == "ppo" else prepared.train_set
        assert len(dataset) == kept


def test_all_problems_are_listed_and_counted(prepare, edited):
    def change(rows):
        rows[:] = [{**row, "preference": 0} for row in rows * 2]

    with pytest.raises(DataError, match=r"32 problems") as refused:
        prepare("reward", dataset_path=edited("reward", change))
    assert str(refused.value).count("must be 1 or 2") == 20 and "and 12 more" in str(refused.value)


def test_an_unreadable_image_is_refused(prepare, tiny_data, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(tiny_data.images, images)
    whole = (images / "000000000001.jpg").read_bytes()
    (images / "000000000001.jpg").write_bytes(b"not an image" + whole[:20])
    for program in PROGRAMS:
        with pytest.raises(DataError, match=r"000000000001\.jpg.*unreadable image"):
            prepare(program, image_folder=images)


@pytest.mark.parametrize(
    ("program", "settings", "message"),
    [
        ("reward", {"eval_size": 16}, "eval_size 16 must be.* --eval_size 3 .*works"),
        ("reward", {"eval_strategy": "steps", "eval_steps": 1}, "--eval_strategy steps needs --eval_size"),
        ("ppo", {"rollout_batch_size": 6}, "6 is not a multiple of 4"),
        ("ppo", {"step_batch_size": 3}, "8 is not a multiple of 3"),
        ("ppo", {"optim": "adamw"}, "--optim adamw: choose from adamw_torch"),
        ("ppo", {"lr_scheduler_type": "wavy"}, "wavy"),
        ("ppo", {"resume": "no_such/checkpoint-3"}, "not a complete checkpoint"),
        ("ppo", {"base_model_name": "/no/such/base"}, "/no/such/base is not a model directory"),
        ("ppo", {"policy_model_name_or_path": "/no/such/policy"}, "/no/such/policy holds no policy adapter"),
        ("ppo", {"reward_model_name_or_path": "/no/such/reward"}, "/no/such/reward is not a reward model"),
        ("reward", {"model_name_or_path": "/no/such/base"}, "/no/such/base is not a model directory"),
        ("policy", {"query_len": 3}, "no row is left.*query longer than query_len 3"),
    ],
)
def test_settings_that_do_not_fit_are_refused(program, settings, message, prepare):
    with pytest.raises(ValueError, match=message):
        prepare(program, **settings)


@pytest.mark.parametrize("program", ["reward", "policy"])
def test_a_wrong_resume_folder_is_refused(program, prepare):
    with pytest.raises(ValueError, match="not a complete checkpoint"):
        prepare(program, resume="no_such/checkpoint-3")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"facts": False}, "prompt: trained with .*facts: trained with True, now False"),
        (
            {"version": "v1", "query_len": 200, "model_max_length": 500},
            "template: trained with 'tiny', now 'v1'",
        ),
        ({"image_aspect_ratio": "square"}, "image_aspect_ratio: trained with 'pad', now 'square'"),
    ],
)
def test_ppo_scores_as_the_reward_model_was_trained_or_says_so(settings, message, prepare):
    with pytest.raises(ValueError, match=f"{message}.*--allow_prompt_change True"):
        prepare("ppo", **settings)
    assert len(prepare("ppo", **settings, allow_prompt_change=True).prompts) == 16


def test_the_reward_models_base_must_have_the_weights_of_its_training(prepare, tiny_base, tmp_path):
    moved = shutil.copytree(tiny_base, tmp_path / "moved")
    assert prepare("ppo", reward_base_model_name=moved).reward_base == str(moved)
    other = save_tiny_base(tmp_path / "other", TinyShape(seed=5))
    with pytest.raises(ValueError, match=r"other weights than .*other \(on .*tiny.*--reward_base_model_name"):
        prepare("ppo", reward_base_model_name=other)


def test_another_prompt_file_needs_the_flag(prepare, tmp_path):
    other = tmp_path / "prompt.txt"
    other.write_text(FACT_PROMPT.replace("good", "bad"))
    with pytest.raises(ValueError, match=r"prompt: trained with .*good.*, now .*bad"):
        prepare("ppo", reward_prompt_file=other)
    assert prepare("ppo", reward_prompt_file=other, allow_prompt_change=True).prompts


def test_the_same_prompt_in_another_place_needs_nothing(prepare, tmp_path):
    other = tmp_path / "moved.txt"
    other.write_text(f"\n{FACT_PROMPT}\n\n")  # prompt files are stripped
    assert len(prepare("ppo", reward_prompt_file=other).prompts) == 16


@pytest.mark.parametrize("program", PROGRAMS)
def test_summary_only_stops_before_a_model_is_loaded(program, prepare, capsys, tmp_path):
    PROGRAMS[program].run(prepare(program, summary_only=True))
    text = capsys.readouterr().out
    assert "16 of 16 rows kept" in text and text.count("--- example") == 3
    assert read_json_lines(tmp_path / "run" / "metrics.jsonl") == []


@pytest.mark.parametrize("program", tiered(PROGRAMS, quick=["reward"]))
def test_without_that_flag_the_broken_weights_are_noticed_by_run_only(program, prepare):
    prepared = prepare(program)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        PROGRAMS[program].run(prepared)
