"""Rows in the published formats, and the builders called with a test's settings."""

from __future__ import annotations

from dataclasses import replace

from data_utils.building import build_preferences, build_prompts
from data_utils.facts import FactBook, MissingCaptions, RewardPrompt

PROMPT = RewardPrompt("score")
FACTS = RewardPrompt("facts {factual_prompt} score")
CAPTIONS = {"a.png": ("a cat", "a dog"), "b.png": ("red",), "c.png": ("blue",), "aok_a.png": ("yes",)}


def human(text: str) -> dict:
    return {"from": "human", "value": text}


def gpt(text: str) -> dict:
    return {"from": "gpt", "value": text}


def preference(image="a.png", question="what ?", outputs=("a cat", "a dog"), **more) -> dict:
    first, second = map(gpt, outputs)
    turns = [human(question), gpt("")]
    return {
        "image": image,
        "conversations": turns,
        "output_1": first,
        "output_2": second,
        "preference": 1,
        **more,
    }


def prompt_row(image="a.png", question="what ?", **more) -> dict:
    return {"image": image, "conversations": [human(question)], **more}


def preferences(path, common, prompt=PROMPT, missing="error", seed=0, **changes):
    facts = FactBook(CAPTIONS, MissingCaptions(missing))
    return build_preferences(path, replace(common, **changes), facts=facts, prompt=prompt, seed=seed)


def prompts(path, common, prompt=PROMPT, missing="error", seed=0, reward_pipeline=None, **changes):
    facts = None if prompt is None else FactBook(CAPTIONS, MissingCaptions(missing))
    scored = {"facts": facts, "prompt": prompt, "seed": seed, "reward_pipeline": reward_pipeline}
    return build_prompts(path, replace(common, **changes), **scored)
