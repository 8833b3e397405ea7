"""Fact rewards by claims: flags of the other kind, judges that are none, facts that are not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.errors.documented import documented
from tests.support.judge_server import JudgeServer
from tests.support.tiny_data import changed

ZERO3 = Path(__file__).parents[2] / "scripts" / "zero3.json"
NOBODY = "http://127.0.0.1:9/v1"
CLAIMS = {"fact_reward": "claims"}
FLAGS = {
    "words-for-claims": {**CLAIMS, "fact_words": "shapes"},
    "question-for-claims": {**CLAIMS, "picture_question": "is it a {thing}?"},
    "judge-for-mentions": {
        "fact_reward": "mentions",
        "claim_judge_url": NOBODY,
        "claim_judge_model": "judge",
    },
    "judge-without-name": {**CLAIMS, "claim_judge_url": NOBODY},
    "judge-of-another-protocol": {**CLAIMS, "claim_judge_url": "ftp://host", "claim_judge_model": "judge"},
    "judge-without-key": {
        **CLAIMS,
        "claim_judge_url": "https://api.openai.com/v1",
        "claim_judge_model": "judge",
    },
    "judge-not-there": {**CLAIMS, "claim_judge_url": NOBODY, "claim_judge_model": "judge"},
    "judge-says-something-else": {**CLAIMS, "claim_judge_model": "judge-1"},
    "claims-in-parts": {**CLAIMS, "deepspeed": ZERO3, "rollout_engine": "vllm", "vllm_servers": NOBODY},
    "no-facts-at-all": {**CLAIMS, "facts": False, "allow_prompt_change": True, "image_to_caption_file": None},
}
CASES = (*FLAGS, "answers-of-nobody")


@pytest.mark.parametrize("case", CASES)
def test_documented(case, prepare, data, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    row, flags = documented(__file__, case), dict(FLAGS.get(case, CLAIMS))
    if case == "answers-of-nobody":
        file = tmp_path / "answers of a run" / "claims" / "answers_0.jsonl"
        file.parent.mkdir(parents=True)
        file.write_text('{"answers": {"0a1b": 0.5}}\n{"answers": ["0a1b"]}\n')
        flags["output_dir"] = file.parent.parent
    if case == "no-facts-at-all":

        def without_captions(rows):
            for one in rows:
                one.pop("captions", None)

        flags["dataset_path"] = changed(data.prompts, "without captions.json", without_captions)
    with JudgeServer(answer=lambda text: "perhaps") as server:
        if case == "judge-says-something-else":
            flags["claim_judge_url"] = server.url
        with pytest.raises(ValueError, match=row.pattern):
            prepare("ppo", **flags)
    assert row.skipped == "–" and not (tmp_path / "run").exists()


def test_answers_about_pictures_are_checked_too(prepare, tmp_path):
    file = tmp_path / "of mentions" / "mentions" / "answers_0.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text('{"answers": {"0a1b": "yes"}}\n')
    flags = {"fact_reward": "mentions", "unmentioned": "ask_picture", "output_dir": file.parent.parent}
    with pytest.raises(ValueError, match=r"mentions/answers_0.jsonl, line 1: no answers of a judge"):
        prepare("ppo", **flags)
    file.write_text('{"answers": {"0a1b": null, "2c": 1}}\n')
    assert prepare("ppo", **flags).settings.fact_reward.asks_base, "null: it said neither Yes nor No"


def test_a_judge_that_answers_is_asked_once(prepare):
    with JudgeServer(answer=lambda text: "Yes.") as server:
        flags = {**CLAIMS, "claim_judge_url": server.url, "claim_judge_model": "judge-1"}
        assert prepare("ppo", **flags).settings.fact_reward.judges_claims
        assert len(server.requests) == 1
        prepare("ppo", **flags, summary_only=True)
        assert len(server.requests) == 1, "a summary asks nobody"


def test_pictures_can_be_asked_without_any_fact(prepare, data):
    def without_captions(rows):
        for one in rows:
            one.pop("captions", None)

    rows = changed(data.prompts, "no captions.json", without_captions)
    flags = {**FLAGS["no-facts-at-all"], "dataset_path": rows, "unmentioned": "ask_picture"}
    assert prepare("ppo", **flags).settings.fact_reward.asks_picture
