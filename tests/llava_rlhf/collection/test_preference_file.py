"""Several judgements of one pair → at most one preference."""

from __future__ import annotations

import json

import pytest

from llava_rlhf.collection.judgements import Judgement, Verdict
from llava_rlhf.collection.pairs import PairFile, pair_line, two_different
from llava_rlhf.collection.preference_file import PreferenceFile, majority, summarise
from tests.llava_rlhf.collection.world import line


def judged(people: str, judges: str = "") -> dict[str, Judgement]:
    """Letters → judgements: 1, 2, t(ie), b(oth bad), u(nreadable)."""
    meaning = {"1": "1", "2": "2", "t": "tie", "b": "both_bad", "u": "unreadable"}
    votes = [(f"p{i}", letter, True) for i, letter in enumerate(people)]
    votes += [(f"ai:{i}", letter, False) for i, letter in enumerate(judges)]
    return {name: Judgement(0, name, Verdict(meaning[letter]), human=human) for name, letter, human in votes}


@pytest.mark.parametrize(
    ("people", "judges", "preference"),
    [
        ("1", "", 1),
        ("112", "", 1),
        ("12", "", None),
        ("1t", "", None),
        ("11t", "", 1),
        ("t", "", None),
        ("b", "", None),
        ("2", "111", 2),  # people decide where people judged
        ("t", "1", None),
        ("", "2", 2),
        ("", "u", None),
        ("", "u1", 1),
        ("", "12", None),
        ("", "", None),
    ],
)
def test_more_than_half_decides_and_people_before_machines(people, judges, preference):
    assert majority(judged(people, judges)) == preference


def test_two_different_answers():
    assert two_different(["a ", " a", "", "b", "c"]) == ("a", "b")
    assert two_different(["a", "a ", "  "]) is None


def test_pairs_file_knows_prompts_without_a_pair(tmp_path):
    answer = {
        "id": "p",
        "prompt_row": 4,
        "image": ["x.png"],
        "question": "<image>\nwhat?",
        "answer_type": "GENERAL",
    }
    pairs = PairFile(tmp_path / "pairs.jsonl")
    alike = pair_line([{**answer, "answer": text} for text in ("a", "a")], 0)
    pairs.add(
        [alike, pair_line([{**answer, "prompt_row": 5, "answer": text} for text in ("a", "a", "b")], 0)]
    )
    pairs.close()
    pairs = PairFile(tmp_path / "pairs.jsonl")
    assert pairs.rows == {4, 5} and list(pairs.pairs) == [5]
    assert (pairs.pairs[5].outputs, pairs.pairs[5].question) == (("a", "b"), "what?")
    pairs.close()
    (tmp_path / "pairs.jsonl").write_text('{"something": "else"}\n')
    with pytest.raises(ValueError, match="no file of pairs"):
        PairFile(tmp_path / "pairs.jsonl")


def test_the_file_is_whole_at_every_moment(tmp_path, monkeypatch):
    pairs = PairFile(tmp_path / "pairs.jsonl")
    pairs.add([line(0), line(1)])
    preferences = PreferenceFile(tmp_path / "preferences.json")
    preferences.update(pairs.pairs[0], judged("1"))
    preferences.write()
    before = preferences.path.read_text()
    preferences.update(pairs.pairs[1], judged("2"))
    monkeypatch.setattr(
        "os.replace", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt)
    )  # a kill before the end
    with pytest.raises(KeyboardInterrupt):
        preferences.write()
    assert preferences.path.read_text() == before and len(json.loads(before)) == 1


def test_summary_by_hand(tmp_path):
    pairs = PairFile(tmp_path / "pairs.jsonl")
    pairs.add([line(row) for row in range(4)])
    judgements = {0: judged("11"), 1: judged("12"), 2: judged("22"), 3: judged("", "u")}
    summary = summarise(pairs.pairs, judgements)
    assert (summary["pairs"], summary["judged"], summary["preferences"], summary["undecided"]) == (4, 3, 2, 1)
    assert summary["verdicts"] == {"ai:0": {"unreadable": 1}, "p0": {"1": 2, "2": 1}, "p1": {"1": 1, "2": 2}}
    # As in test_agreement: 6 values, three of each, one disagreement.
    assert summary["agreement"]["all_verdicts"]["krippendorff_alpha"] == pytest.approx(4 / 9)
    assert summary["agreement"]["all_verdicts"]["pairwise"][0]["pairs"] == 3
