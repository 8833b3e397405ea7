"""Files → datasets: what is kept, what is dropped and counted, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers import CLIPImageProcessorPil

from data_utils.building import build_dialogues, build_preferences, build_prompts
from data_utils.conversation import TEMPLATES
from data_utils.facts import FactBook, MissingCaptions, RewardPrompt
from data_utils.images import ImagePipeline
from data_utils.problems import DataError
from data_utils.row_settings import RowSettings
from data_utils.schema import AnswerType
from tests.data_utils.rows import FACTS, gpt, human, preference, preferences, prompt_row, prompts


def test_a_pair_by_hand(write, common):
    data = preferences(write("p.json", [preference(preference=2)]), common)
    item = data[0]
    # <s> USER: <image> what ? ASSISTANT: | a cat/dog </s> | score
    assert item.input_ids == ([1, 5, 4, 7, 10, 6, 11, 12, 2, 23], [1, 5, 4, 7, 10, 6, 11, 13, 2, 23])
    assert item.preference == 2
    assert item.images.shape == (1, 3, 8, 8)
    assert item.images[0].mean((1, 2)).argmax() == 0  # a.png is red


def test_a_dialogue_by_hand(write, common):
    rows = [{"image": "b.png", "conversations": [human("what ?"), gpt("a cat"), human("red ?"), gpt("no")]}]
    item = build_dialogues(write("d.json", rows), common)[0]
    # <s> USER: <image> what ? ASSISTANT: | a cat </s> | USER: red ? ASSISTANT: | no </s>
    assert item.input_ids == [1, 5, 4, 7, 10, 6, 11, 12, 2, 5, 14, 10, 6, 17, 2]
    assert item.supervised == [False] * 6 + [True] * 3 + [False] * 4 + [True] * 2


def test_a_prompt_by_hand(write, common):
    row = prompt_row(id=9, question="what ? <image>", caption_type=2, length_bonus=0.5)
    item = prompts(write("r.json", [row]), common, prompt=FACTS)[0]
    assert item.query_ids == [1, 5, 4, 7, 10, 6]
    assert item.captions == ("yes",)
    assert item.reward_prompt_ids[0] == 25 and item.reward_prompt_ids[-1] == 23  # facts … score
    assert (item.row, item.id, item.question) == (0, "9", "what ?")
    assert (item.answer_type, item.length_bonus) == (AnswerType.A_IN_ABCD, 0.5)
    assert item.image_names == ("a.png",) and item.images.shape == (1, 3, 8, 8)
    assert item.reward_images is None


def test_a_reward_model_with_its_own_tower_gets_its_own_pixels(write, common):
    processor = CLIPImageProcessorPil(size={"shortest_edge": 12}, crop_size={"height": 12, "width": 12})
    path = write("r.json", [prompt_row(), prompt_row(image=None)])
    data = prompts(path, common, reward_pipeline=ImagePipeline(processor, "pad"))
    assert data[0].images.shape == (1, 3, 8, 8) and data[0].reward_images.shape == (1, 3, 12, 12)
    assert data[1].images.shape == (0, 3, 8, 8) and data[1].reward_images.shape == (0, 3, 12, 12)


def test_both_answers_of_a_pair_read_the_same_facts_in_the_same_order(write, common):
    path = write("p.json", [preference() for _ in range(40)])
    data = preferences(path, common, prompt=FACTS)
    again = preferences(path, common, prompt=FACTS)
    other = preferences(path, common, prompt=FACTS, seed=1)
    tails = []
    for item in data:
        first, second = (ids[ids.index(2) :] for ids in item.input_ids)
        assert first == second
        tails.append(first)
    assert len({tuple(tail) for tail in tails}) == 2  # "a cat, a dog" and "a dog, a cat" both occur
    assert [item.input_ids for item in data] == [item.input_ids for item in again]
    assert [item.input_ids for item in data] != [item.input_ids for item in other]


def test_rows_with_no_one_and_several_images(write, common):
    rows = [
        preference(image=None),
        preference(image=["c.png", "a.png"], question="<image> <image> what ?"),
        preference(),
    ]
    data = preferences(write("p.json", rows), common, prompt=FACTS)
    assert [len(item.images) for item in data] == [0, 2, 1]
    assert [item.input_ids[0].count(4) for item in data] == [0, 2, 1]
    assert data[1].images.mean((2, 3)).argmax(1).tolist() == [2, 0]  # c.png is blue, a.png red
    assert data.report.caption_coverage == (2, 1)


def test_every_offender_is_listed_at_once(write, common):
    rows = [
        preference(preference=3),
        preference(image="none.png"),
        preference(),
        preference(image="d.png"),
    ]
    Image.new("RGB", (4, 4)).save(common.image_folder / "d.png")
    path = write("p.json", rows)
    with pytest.raises(DataError) as caught:
        preferences(path, common, prompt=FACTS)
    assert [(p.row, p.field) for p in caught.value.problems] == [
        (0, "preference"),
        (1, "image"),
        (3, "image"),
    ]
    message = str(caught.value)
    assert f"{path}, row 1" in message and "no such file" in message
    assert "--missing_captions" in message and "3 problems" in message


def test_skip_invalid_drops_and_counts_instead(write, common):
    rows = [
        preference(preference=3),
        preference(image="none.png"),
        preference(),
        preference(image="../a.png"),
    ]
    data = preferences(write("p.json", rows), common, skip_invalid=True)
    assert len(data) == data.report.rows_kept == 1
    assert data.report.rows_read == 4
    assert dict(data.report.dropped) == {"invalid record": 1, "missing or unreadable image": 2}


def test_an_unreadable_file_cannot_be_skipped(tmp_path, common):
    with pytest.raises(DataError, match="must be a readable"):
        preferences(tmp_path / "none.json", common, skip_invalid=True)


def test_images_without_an_image_folder_are_a_problem(write, common):
    path = write("r.json", [prompt_row(), prompt_row(image=None)])
    with pytest.raises(DataError, match="no image folder"):
        prompts(path, common, image_folder=None)
    assert len(prompts(path, common, image_folder=None, skip_invalid=True)) == 1


@pytest.mark.parametrize(
    ("missing", "kept", "coverage"), [("skip", 1, (1, 0)), ("no_fact", 2, (1, 1)), ("error", None, None)]
)
def test_the_policy_on_missing_captions(write, common, missing, kept, coverage):
    # c.png has captions, but no rationale
    path = write("r.json", [prompt_row(), prompt_row(image="c.png", caption_type=3)])
    if kept is None:
        with pytest.raises(DataError, match=r"aok_c\.png"):
            prompts(path, common, prompt=FACTS, missing=missing)
        return
    data = prompts(path, common, prompt=FACTS, missing=missing)
    assert (len(data), data.report.caption_coverage) == (kept, coverage)
    assert data.report.dropped["missing captions"] == 2 - kept
    if kept == 2:
        assert data[1].captions == () and data[1].reward_prompt_ids == [25, 23]  # facts score


def test_a_prompt_without_facts_asks_for_no_captions(write, common):
    data = prompts(write("r.json", [prompt_row(image="c.png", caption_type=3)]), common)
    assert data.report.caption_coverage is None and data[0].captions == ()


def test_a_dropped_prompt_takes_its_image_and_its_facts_along(write, common):
    rows = [
        prompt_row("a.png", "what " * 30),
        prompt_row("b.png", "red ?", length_bonus=2.0),
        prompt_row("none.png"),
        prompt_row("c.png", "blue ?", caption_type=7),
    ]
    data = prompts(write("r.json", rows), common, prompt=FACTS, skip_invalid=True)
    kept = [(i.row, i.image_names, i.captions, i.question, i.length_bonus, i.answer_type.value) for i in data]
    assert kept == [
        (1, ("b.png",), ("red",), "red ?", 2.0, 1),
        (3, ("c.png",), ("blue",), "blue ?", 1.0, 7),
    ]
    assert [item.images[0].mean((1, 2)).argmax().item() for item in data] == [1, 2]


def test_split_is_a_seeded_partition(write, common):
    data = prompts(write("r.json", [prompt_row(id=str(row)) for row in range(20)]), common)
    train, evaluation = data.split(5, seed=3)
    assert (len(train), len(evaluation)) == (15, 5)
    rows = [item.row for item in train] + [item.row for item in evaluation]
    assert sorted(rows) == list(range(20))
    again = data.split(5, seed=3)
    assert [item.row for item in evaluation] == [item.row for item in again[1]]
    assert [item.row for item in evaluation] != [item.row for item in data.split(5, seed=4)[1]]
    assert evaluation[0].images.shape == (1, 3, 8, 8) and evaluation.report is data.report
    assert data.split(0, seed=3) == (data, None)
    for size in (20, 21, -1):
        with pytest.raises(ValueError, match="eval_size"):
            data.split(size, seed=3)


def test_workers_open_the_images(write, common):
    data = prompts(write("r.json", [prompt_row(), prompt_row("b.png")]), common)
    items = [batch[0] for batch in DataLoader(data, batch_size=1, num_workers=1, collate_fn=list)]
    torch.testing.assert_close(items[1].images, data[1].images)
    assert [item.row for item in items] == [0, 1]


def test_golden_pairs_and_prompts_through_the_whole_path(golden, llama_encoder):
    processor = CLIPImageProcessorPil.from_pretrained(golden / "base" / "openai" / "clip-vit-tiny-patch14-56")
    settings = RowSettings(
        image_folder=golden / "images",
        encoder=llama_encoder,
        template=TEMPLATES["v1"],
        pipeline=ImagePipeline(processor, "pad"),
        query_len=1024,
        response_len=256,
        model_max_length=2048,
        skip_invalid=False,
    )
    scored = {
        "facts": FactBook(None, MissingCaptions.ERROR),
        "prompt": RewardPrompt(_plain_prompt(golden)),
        "seed": 0,
    }
    pairs = build_preferences(golden / "data" / "preference.json", settings, **scored)
    recorded = json.loads((golden / "data" / "golden_rm_plain.json").read_text())
    assert [list(item.input_ids) for item in pairs] == [row["input_ids"] for row in recorded]
    assert [item.preference - 1 for item in pairs] == [row["choice"][0] for row in recorded]
    prompts = build_prompts(
        golden / "data" / "rl.json",
        replace(settings, query_len=64, response_len=16),
        reward_pipeline=None,
        **scored,
    )
    long = json.loads((golden / "data" / "golden_rl_q1024.json").read_text())["rows"]
    lengths = {row["record_id"]: sum(row["query_attn_mask"]) for row in long}
    assert [item.id for item in prompts] == [name for name, length in lengths.items() if length <= 64]
    assert prompts.report.dropped.total() == sum(length > 64 for length in lengths.values()) == 1


def _plain_prompt(golden) -> str:
    return (golden.parent / "reward_prompts" / "reward_prompt.txt").read_text().strip()


def test_every_prompt_keeps_its_own_image_from_the_first_to_the_last_and_again(write, common):
    colours = {"a.png": 0, "b.png": 1, "c.png": 2}  # the brightest channel of each
    names = [*colours] * 3
    data = prompts(write("r.json", [prompt_row(name) for name in names]), common, prompt=FACTS)
    assert len(data.report.examples) == 3  # shown, and not used up by it
    for _ in range(2):
        items = [data[index] for index in range(len(names))]
        assert [item.image_names for item in items] == [(name,) for name in names]
        brightest = [item.images.mean((2, 3)).argmax(1).tolist() for item in items]
        assert brightest == [[colours[name]] for name in names]


def test_a_pair_reads_the_same_facts_at_every_evaluation(write, common):
    data = preferences(write("p.json", [preference() for _ in range(8)]), common, prompt=FACTS)
    _, evaluated = data.split(6, seed=0)
    first = [item.input_ids for item in evaluated]
    assert len({tuple(ids) for pair in first for ids in pair}) == 4  # two answers, two orders of the captions
    for _ in range(3):
        assert [item.input_ids for item in evaluated] == first
