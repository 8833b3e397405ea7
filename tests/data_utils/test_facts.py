"""Which facts belong to a row, and how the reward model reads them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from data_utils.facts import FactBook, MissingCaptions, RewardPrompt, caption_key, shuffled_captions
from data_utils.schema import AnswerType, Record, Turn

PROMPTS = Path(__file__).parents[2] / "prompts"
GENERAL = AnswerType.GENERAL


def record(images=(), captions=None) -> Record:
    return Record("f.json", 0, "r", tuple(images), (Turn("human", "x"),), captions, {})


def test_multiple_choice_looks_up_the_rationale():
    keys = {kind: caption_key("1.jpg", kind) for kind in AnswerType}
    assert {kind for kind, key in keys.items() if key == "aok_1.jpg"} == {
        AnswerType.A_IN_ABCD,
        AnswerType.B_IN_ABCD,
        AnswerType.C_IN_ABCD,
        AnswerType.D_IN_ABCD,
    }
    assert set(keys.values()) == {"1.jpg", "aok_1.jpg"}


@pytest.mark.parametrize(
    ("images", "own", "kind", "found"),
    [
        (["a"], None, GENERAL, ("A one", "A two")),
        (["a"], None, AnswerType.C_IN_ABCD, ("rationale",)),
        (["a"], ("own",), GENERAL, ("A one", "A two")),  # the map goes first
        (["x"], ("own",), GENERAL, ("own",)),
        (["x"], None, GENERAL, None),
        (["empty"], None, GENERAL, None),
        (["b"], None, AnswerType.A_IN_ABCD, None),
        (["b", "a"], None, GENERAL, ("B one", "A one", "A two")),
        (["x", "a"], ("own",), GENERAL, ("A one", "A two")),
        (["x", "y"], None, GENERAL, None),
        ([], None, GENERAL, ()),  # nothing to look up is no miss
        ([], ("own",), GENERAL, ("own",)),
    ],
)
def test_facts_of_a_row(images, own, kind, found):
    captions = {"a": ("A one", "A two"), "b": ("B one",), "aok_a": ("rationale",), "empty": ()}
    assert FactBook(captions, MissingCaptions.ERROR).find(record(images, own), kind) == found


def test_without_a_map_a_row_has_its_own_captions_only():
    book = FactBook(None, MissingCaptions("skip"))
    assert book.missing is MissingCaptions.SKIP
    assert book.find(record(["a"], ("own",)), GENERAL) == ("own",)
    assert book.find(record(["a"]), GENERAL) is None


def test_the_rendered_text_by_hand():
    prompt = RewardPrompt("Be accurate. {factual_prompt}\nBe brief. {other}")
    assert prompt.uses_facts
    assert prompt.render(["one", "two"]) == (
        " Be accurate. Specifically, the AI's response should be fully supported by the combination of the "
        "following captions:\n  - one\n  - two\n\nBe brief. {other}"
    )
    assert prompt.render(None) == prompt.render([]) == " Be accurate.\nBe brief. {other}"


def test_braces_in_a_caption_are_text():
    assert "  - a {factual_prompt} {0}\n" in RewardPrompt("{factual_prompt}").render(
        ["a {factual_prompt} {0}"]
    )


def test_the_shipped_factual_prompt_without_facts_is_the_plain_one():
    plain = RewardPrompt.from_file(PROMPTS / "reward_prompt.txt")
    factual = RewardPrompt.from_file(PROMPTS / "fact_rlhf_reward_prompt.txt")
    assert (plain.uses_facts, factual.uses_facts) == (False, True)
    assert factual.render(None) == plain.render(None) == plain.render(["ignored"])
    assert plain.render(None).startswith(" USER: Please evaluate")
    assert plain.render(None).endswith("the quality score of my last response is")


@pytest.mark.parametrize("content", ["", " \n", "{factual_prompt} and {factual_prompt}", None])
def test_a_prompt_file_that_cannot_be_used_is_named(tmp_path, content):
    path = tmp_path / "prompt.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=r"prompt\.txt"):
        RewardPrompt.from_file(path)


def test_a_prompt_file_is_stripped(tmp_path):
    (tmp_path / "prompt.txt").write_bytes(b"\xef\xbb\xbf\n score? \n\n")
    assert RewardPrompt.from_file(tmp_path / "prompt.txt").render(None) == " score?"


def test_the_order_of_captions_is_random_but_a_function_of_seed_and_row():
    captions = ("one", "two", "three")
    orders = [shuffled_captions(captions, seed=0, row=row) for row in range(600)]
    assert orders == [shuffled_captions(captions, seed=0, row=row) for row in range(600)]
    assert orders != [shuffled_captions(captions, seed=1, row=row) for row in range(600)]
    # six orders, 100 expected of each; 5 standard deviations are 46
    counts = Counter(orders)
    assert len(counts) == 6 and all(abs(count - 100) < 46 for count in counts.values())
    assert captions == ("one", "two", "three")
