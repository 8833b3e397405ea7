"""Who gets which pair in which order, what is on disk when, and what a restart finds."""

from __future__ import annotations

import json

import pytest

from data_utils.fact_lists import NO_FACTS, fact_list
from data_utils.schema import read_preferences
from llava_rlhf.collection.assignments import RESERVED_SECONDS
from llava_rlhf.collection.folder import CollectionFolder
from llava_rlhf.collection.judgements import Verdict
from tests.llava_rlhf.collection.world import SOURCE, Clock, line, open_queue

FIRST, SECOND, TIE, BAD = Verdict.FIRST, Verdict.SECOND, Verdict.TIE, Verdict.BOTH_BAD


def judge_all(queue, annotator: str, verdict: Verdict = FIRST) -> list[int]:
    rows = []
    while (showing := queue.show(annotator)) is not None:
        rows.append(showing.pair.row)
        assert queue.judge(annotator, showing.pair.row, verdict)
    return rows


def test_everybody_has_an_order_of_their_own_batch_by_batch(tmp_path):
    lines = [line(row, batch=row // 8) for row in range(24)]
    orders = {}
    for name in ("ann", "bob"):
        folder, queue = open_queue(tmp_path / name, lines)
        orders[name] = judge_all(queue, name)
        folder.close()
        assert [sorted(orders[name][start : start + 8]) for start in (0, 8, 16)] == [
            list(range(start, start + 8)) for start in (0, 8, 16)
        ]
    assert orders["ann"] != orders["bob"] and orders["ann"] != sorted(orders["ann"])


def test_a_pair_goes_to_one_annotator_and_shared_ones_to_all(tmp_path):
    _, queue = open_queue(tmp_path, [line(row) for row in range(60)], shared_share=0.3)
    shared = {row for row in range(60) if queue.shared(row)}
    assert 8 <= len(shared) <= 28  # 18 expected, 3.5 standard deviations
    seen = {"ann": [], "bob": []}
    for turn in range(200):
        name = ("ann", "bob")[turn % 2]
        showing = queue.show(name)
        if showing is not None:
            seen[name].append(showing.pair.row)
            queue.judge(name, showing.pair.row, TIE)
    both = set(seen["ann"]) & set(seen["bob"])
    assert both == shared and set(seen["ann"]) | set(seen["bob"]) == set(range(60))


def test_a_pair_on_a_screen_is_reserved_for_a_while(tmp_path):
    clock = Clock()
    _, queue = open_queue(tmp_path, [line(0)], clock=clock)
    assert queue.show("ann").pair.row == 0 and queue.show("bob") is None
    assert queue.untouched() == 0
    clock.now += RESERVED_SECONDS
    assert queue.show("bob").pair.row == 0


def test_either_answer_stands_left_as_often_and_the_file_does_not_depend_on_it(tmp_path):
    folder, queue = open_queue(tmp_path, [line(row) for row in range(200)])
    for _ in range(200):
        showing = queue.show("ann")
        left_is_first = showing.shown[0].startswith("first")
        assert left_is_first == (showing.left == 1)
        queue.judge("ann", showing.pair.row, FIRST if left_is_first else SECOND)  # always output 1
    rows = json.loads(folder.preferences.path.read_text())
    assert [row["preference"] for row in rows] == [1] * 200
    left = sum(one.left == 1 for by in folder.journal.all().values() for one in by.values())
    assert 70 <= left <= 130  # 100 expected, 4 standard deviations


def test_a_second_click_judges_nothing(tmp_path):
    folder, queue = open_queue(tmp_path, [line(0), line(1)])
    row = queue.show("ann").pair.row
    assert queue.judge("ann", row, FIRST)
    assert not queue.judge("ann", row, SECOND)
    following = queue.show("ann").pair.row
    assert not queue.judge("ann", row, SECOND) and following != row
    assert not queue.judge("ann", 99, FIRST)
    assert sum(map(len, folder.journal.all().values())) == 1


def test_a_restart_goes_on_with_the_pair_that_was_on_the_screen(tmp_path):
    lines = [line(row, batch=row // 4) for row in range(8)]
    folder, queue = open_queue(tmp_path, lines)
    for _ in range(3):
        queue.judge("ann", queue.show("ann").pair.row, FIRST)
    before = queue.show("ann")
    written = folder.preferences.path.read_text()
    folder.close()
    with (tmp_path / "judgements.jsonl").open("a") as file:
        file.write('{"row": 7, "annotator": "ann", "verd')  # a kill in the middle of a line
    folder.preferences.path.unlink()
    folder, queue = open_queue(tmp_path, [line(row, batch=2) for row in range(8, 12)])
    after = queue.show("ann")
    assert (after.pair.row, after.left) == (before.pair.row, before.left)
    assert folder.preferences.path.read_text() == written
    assert queue.judge("ann", after.pair.row, TIE)
    folder.close()


def test_a_page_from_before_the_restart_still_judges(tmp_path):
    folder, queue = open_queue(tmp_path, [line(0)])
    showing = queue.show("ann")
    folder.close()
    folder, queue = open_queue(tmp_path)
    assert queue.judge("ann", 0, FIRST)
    assert folder.journal.of(0)["ann"].verdict == (FIRST if showing.left == 1 else SECOND)


def test_what_was_taken_back_counts_nowhere_but_stays_in_the_journal(tmp_path):
    folder, queue = open_queue(tmp_path, [line(0), line(1)])
    assert not queue.undo("ann")
    row = queue.show("ann").pair.row
    queue.judge("ann", row, FIRST, "  sure ")
    assert len(json.loads(folder.preferences.path.read_text())) == 1
    queue.show("ann")
    assert queue.undo("ann") and queue.show("ann").pair.row == row
    assert json.loads(folder.preferences.path.read_text()) == []
    assert queue.judge("ann", row, TIE)
    assert json.loads(folder.preferences.path.read_text()) == []
    lines = [json.loads(text) for text in (tmp_path / "judgements.jsonl").read_text().splitlines()]
    assert [one["verdict"] for one in lines][1:] == ["withdrawn", "tie"] and lines[0]["comment"] == "sure"


def test_ties_and_both_bad_are_no_preferences_and_captions_travel(tmp_path):
    facts = [{"source": "boxes", "object": "dog", "confidence": 0.9}]
    lines = [
        line(0, captions=["a dog."], facts=facts),
        line(1),
        line(2),
        line(3, image=[], answer_type="YES_IN_YESNO"),
    ]
    folder, queue = open_queue(tmp_path, lines)
    verdicts = {0: FIRST, 1: TIE, 2: BAD, 3: SECOND}
    while (showing := queue.show("ann")) is not None:
        verdict = verdicts[showing.pair.row]
        queue.judge("ann", showing.pair.row, verdict if showing.left == 1 else verdict.mirrored)
    records, problems = read_preferences(folder.preferences.path)
    assert not problems
    assert [(one.id, one.preference) for one in records] == [("p0", 1), ("p3", 2)]
    assert records[0].facts == fact_list(facts, "facts") and records[1].facts == NO_FACTS
    assert records[0].captions == ("a dog.",) and records[0].images == ("0.png",)
    assert records[1].images == () and records[1].extra["caption_type"] == 7
    assert json.loads(folder.preferences.path.read_text())[1]["conversations"][1]["value"] == "second 3"
    summary = folder.summarise()
    assert (summary["judged"], summary["preferences"], summary["undecided"]) == (4, 2, 2)
    assert summary == json.loads((tmp_path / "summary.json").read_text())


def test_a_folder_is_open_once_and_holds_one_source(tmp_path):
    folder, _ = open_queue(tmp_path, [line(0)])
    with pytest.raises(ValueError, match="another process"):
        CollectionFolder(tmp_path, SOURCE)
    folder.close()
    with pytest.raises(ValueError, match=r"another source .*seed: 0, now 1"):
        CollectionFolder(tmp_path, {"seed": 1})
    CollectionFolder(tmp_path, SOURCE).close()
    (tmp_path / "judgements.jsonl").write_text('{"row": 5, "annotator": "a", "verdict": "1"}\n')
    with pytest.raises(ValueError, match=r"rows \[5\]"):
        CollectionFolder(tmp_path, SOURCE)
    (tmp_path / "judgements.jsonl").write_text('{"row": 0, "annotator": "a", "verdict": "perhaps"}\n')
    with pytest.raises(ValueError, match="line 1: no judgement"):
        CollectionFolder(tmp_path, SOURCE)
    (tmp_path / "collection.json").write_text("{")
    with pytest.raises(ValueError, match=r"collection\.json: no settings of a collection"):
        CollectionFolder(tmp_path, SOURCE)


@pytest.mark.parametrize("name", [None, "", "ai:judge", "x" * 61, "two\nlines"])
def test_a_click_under_a_name_that_nobody_could_give_judges_nothing(name, tmp_path):
    gr = pytest.importorskip("gradio")
    from llava_rlhf.pages.labelling_screen import Screen, Showable

    folder, queue = open_queue(tmp_path, [line(0)])
    for event in (
        lambda: Screen(queue, Showable(tmp_path)).judged(Verdict.FIRST)(name, 0, ""),
        lambda: Screen(queue, Showable(tmp_path)).undone(name),
    ):
        with pytest.raises(gr.Error, match="Give a name"):
            next(event())
    assert (tmp_path / "judgements.jsonl").read_text() == ""
    folder.close()
