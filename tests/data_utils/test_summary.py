"""The report that is printed before training."""

from __future__ import annotations

from collections import Counter

from data_utils.summary import DataReport, format_report, shorten_middle


def test_the_report_says_what_became_of_the_rows():
    report = DataReport(
        file="p.json",
        rows_read=12,
        rows_kept=9,
        dropped=Counter({"missing captions": 2, "query longer than query_len 6": 1}),
        token_lengths={"query": list(range(1, 101)), "response": []},
        images=(6, 3),
        caption_coverage=(7, 2),
        answer_types=Counter(GENERAL=8, NO_IN_YESNO=1),
        examples=["first", "second", "third", "fourth"],
    )
    lines = format_report(report).splitlines()
    assert "p.json: 9 of 12 rows kept" in lines[0]
    assert "  dropped 2: missing captions" in lines
    assert "  dropped 1: query longer than query_len 6" in lines
    # of 1 … 100: the middle is 50.5, the next length that occurs 51; 95 % lie below 95.05 → 96
    assert "query 51 96 100" in [" ".join(line.split()) for line in lines]
    assert "response 0 0 0" in [" ".join(line.split()) for line in lines]
    assert "  images: 6 rows with, 3 without" in lines
    assert "  facts: 7 rows with, 2 without" in lines
    assert "  answer types: GENERAL 8, NO_IN_YESNO 1" in lines
    assert {"first", "second", "third"} <= set(lines) and "fourth" not in lines


def test_what_was_not_asked_for_is_not_reported():
    text = format_report(DataReport(file="d.json", rows_read=1, rows_kept=1))
    assert text == "Data d.json: 1 of 1 rows kept"


def test_long_examples_lose_their_middle():
    text = "a" * 500 + "b" * 1000 + "c" * 500
    assert shorten_middle(text, 1000) == "a" * 500 + " […1000 characters…] " + "c" * 500
    assert shorten_middle("short", 5) == "short"
    assert len(format_report(DataReport(file="d.json", examples=[text * 10]))) < 1400
