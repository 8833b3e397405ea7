"""Claims alone teach: with a judge that reads words, answers say more that the facts support."""

from __future__ import annotations

import re

import pytest

from tests.llava_rlhf.ppo.test_omission import ALONE
from tests.support.judge_server import JudgeServer
from tests.support.ppo_world import metrics_of, run_ppo
from tests.support.tiny_data import COLOURS, THINGS, ppo_command

pytestmark = pytest.mark.nightly  # that rewards of facts teach is shown by those of mentions, too

KNOWN = (*THINGS, *COLOURS)


def judged_by_words(text: str) -> str:
    """Notes say that a statement is true if they hold all things and colours in it, false if they hold none of them."""
    notes, _, statement = text.partition("\n\nStatement: ")
    statement, _, question = statement.partition("\n\n")
    known, said = ({word for word in KNOWN if re.search(rf"\b{word}\b", part)} for part in (notes, statement))
    wanted = said and (said <= known if "is true" in question else not said & known)
    return "Yes" if wanted else "No"


def test_claims_alone_raise_what_the_facts_support(tiny_data, tiny_base, policy_run, reward_run, tmp_path):
    with JudgeServer(judged_by_words) as server:
        judge = {"claim_judge_url": server.url, "claim_judge_model": "judge-1"}
        settings = {**ALONE, **judge, "fact_reward": "claims", "fact_coverage_score": 0}
        run_ppo(ppo_command(tiny_data, tiny_base, policy_run, reward_run, tmp_path, **settings))
    lines = metrics_of(tmp_path)
    before, after = lines[:10], lines[-10:]

    def mean(part, name):
        return sum(line[name] for line in part) / len(part)

    assert mean(after, "facts/right") > 1.5 * mean(before, "facts/right")
    assert mean(after, "objective/fact_mentions") > mean(before, "objective/fact_mentions") + 0.05
