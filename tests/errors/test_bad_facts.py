"""Caption maps and prompt files."""

from __future__ import annotations

import json

import pytest

from data_utils.problems import DataError
from llava_rlhf.assembly.roles import load_facts
from llava_rlhf.runs.arguments import FactArguments
from tests.errors.conftest import good_rows
from tests.errors.documented import documented
from tests.support.tiny_data import FACT_PROMPT, PLAIN_PROMPT

GOOD = {"a.png": ["a cat"]}
COCO = {
    "info": {},
    "images": [{"id": 1, "file_name": "a.png"}],
    "annotations": [{"image_id": 1, "caption": "a cat"}],
}
# case → content of the caption map (None: as it should be), content of the prompt file
CASES = {
    "map-is-a-list": ([GOOD], FACT_PROMPT),
    "map-is-empty-file": (b"", FACT_PROMPT),
    "map-cut-off": (json.dumps(GOOD)[:-3].encode(), FACT_PROMPT),
    "captions-text": ({**GOOD, "b.png": "a dog"}, FACT_PROMPT),
    "captions-null": ({**GOOD, "b.png": [None]}, FACT_PROMPT),
    "captions-surrogate": ({**GOOD, "b.png": ["\ud800"]}, FACT_PROMPT),
    "image-twice": (b'{"a.png": ["a cat"], "b.png": ["a"], "b.png": ["b"]}', FACT_PROMPT),
    "captions-number": ({**GOOD, "b.png": 3}, FACT_PROMPT),
    "nothing-usable": ({"a.png": 3}, FACT_PROMPT),
    "no-captions": (None, FACT_PROMPT),
    "other-keys": ({"b.jpg": ["a dog"], "COCO_train2014_000000000000.png": ["a cat"]}, FACT_PROMPT),
    "keys-of-nothing": ({"b.jpg": ["a dog"], "c.jpg": ["a cat"]}, FACT_PROMPT),
    "coco": (COCO, FACT_PROMPT),
    "coco-boxes": ({**COCO, "annotations": [{"image_id": 1, "bbox": [0, 0, 1, 1]}]}, FACT_PROMPT),
    "caption-rows": ([{"image": "a.png", "caption": "a cat"}], FACT_PROMPT),
    "caption-lines": (
        b'{"image": "a.png", "caption": "a"}\n{"image": "b.png", "caption": "b"}\n',
        FACT_PROMPT,
    ),
    "map-parquet": (b"PAR1", FACT_PROMPT),
    "prompt-missing": (GOOD, None),
    "prompt-empty": (GOOD, " \n"),
    "prompt-pointer": (GOOD, "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n"),
    "prompt-not-utf-8": (GOOD, b"score \xff"),
    "two-placeholders": (GOOD, "{factual_prompt} or {factual_prompt}"),
    "no-placeholder": (GOOD, PLAIN_PROMPT),
    "misspelt-placeholder": (GOOD, "score {factual_promt}"),
    "stray-braces": (GOOD, "{ score } {0} {{x}} {factual_prompt}}"),
}


@pytest.mark.parametrize("case", CASES)
def test_documented(case, world, tmp_path):
    row, (captions, prompt) = documented(__file__, case), CASES[case]
    map_file, prompt_file, rows_file = (
        tmp_path / "captions.json",
        tmp_path / "prompt.txt",
        tmp_path / "rows.json",
    )
    if captions is not None:
        content = captions if isinstance(captions, bytes) else json.dumps(captions).encode()
        map_file.write_bytes(content)
    if prompt is not None:
        prompt_file.write_bytes(prompt if isinstance(prompt, bytes) else prompt.encode())
    rows_file.write_text(json.dumps(good_rows("reward")))

    def load(skip_invalid: bool):
        arguments = FactArguments(str(prompt_file), str(map_file) if map_file.exists() else None)
        facts, prompt = load_facts(arguments, skip_invalid)
        if case in ("no-captions", "other-keys", "keys-of-nothing"):
            world.build("reward", rows_file, facts=facts, prompt=prompt, skip_invalid=skip_invalid)
        return facts, prompt

    if case == "captions-text":
        assert row.accepted and load(False)[0]._captions == {"a.png": ("a cat",), "b.png": ("a dog",)}
        return
    if row.accepted:
        assert load(False)[1].render(["a cat"]).startswith(" { score } {0} {{x}} Specifically, ")
        return
    with pytest.raises(ValueError, match=row.pattern):
        load(False)
    if row.skipped == "drops it":
        assert load(True)[0]._captions == {"a.png": ("a cat",)}
    else:
        with pytest.raises(ValueError):
            load(True)


def test_a_caption_file_with_a_mistake_does_not_hide_behind_a_name(tmp_path):
    # An image may be called "file".
    (tmp_path / "captions.json").write_text(json.dumps({**GOOD, "file": 3}))
    (tmp_path / "prompt.txt").write_text(FACT_PROMPT)
    arguments = FactArguments(str(tmp_path / "prompt.txt"), str(tmp_path / "captions.json"))
    with pytest.raises(DataError, match="'file': value 3"):
        load_facts(arguments, skip_invalid=False)
    assert load_facts(arguments, skip_invalid=True)[0]._captions == {"a.png": ("a cat",)}
