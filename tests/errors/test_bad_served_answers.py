"""Programs whose prompts servers are to answer: what is refused before anything is answered, and without a base here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from llava_rlhf import answer_prompts, collect_preferences
from llava_rlhf.conversion.published_names import publish_names
from llava_rlhf.runs.role_files import POLICY
from tests.errors.documented import documented
from tests.support.fake_vllm import FakeVLLM
from tests.support.tiny_data import TinyData, command_line
from tests.support.tiny_models import IMAGE

NOBODY = "http://127.0.0.1:9"
NO_ADAPTER = (404, {"error": {"message": "Loading lora failed: No adapter found for /x"}})
ANSWERS = {
    "answers-without-servers": {"rollout_engine": "vllm"},
    "answers-in-4-bits": {"rollout_engine": "vllm", "vllm_servers": NOBODY, "bits": 4},
    "answers-of-nobody": {"rollout_engine": "vllm", "vllm_servers": NOBODY},
    "adapter-not-shared": None,
    "begun-without-servers": None,
}
COLLECTIONS = ("answers-are-there", "collected-with-servers")
CASES = (*ANSWERS, *COLLECTIONS)


@pytest.fixture(scope="module")
def served_base(unloadable_base, tmp_path_factory) -> Path:
    """The base, as servers read it, which can't be loaded."""
    folder = tmp_path_factory.mktemp("bases") / "served"
    shutil.copytree(unloadable_base, folder)
    publish_names(folder)
    return folder


@pytest.fixture
def fake(served_base):
    """A server of that base, which reads four positions a picture."""

    def widen(ids: list[int]) -> list[int]:
        return [index for one in ids for index in ([one] * 4 if one == IMAGE else [one])]

    with FakeVLLM(str(served_base), widen) as fake:
        yield fake


@pytest.fixture
def flags(data: TinyData, served_base, policy_folder, tmp_path):
    def flags(**settings) -> list[str]:
        known = {
            "base_model_name": served_base,
            "adapter": policy_folder,
            "dataset_path": data.prompts,
            "image_folder": data.images,
            "version": "tiny",
            "response_len": 12,
            "use_cpu": True,
        }
        return command_line(**{**known, **settings})

    return flags


@pytest.mark.parametrize("case", CASES)
def test_documented(case, flags, fake, tmp_path):
    row, said = documented(__file__, case), ANSWERS.get(case)
    servers = {"rollout_engine": "vllm", "vllm_servers": fake.url}
    output = tmp_path / "answers.jsonl"
    if case == "adapter-not-shared":
        fake.said["/v1/load_lora_adapter"] = NO_ADAPTER
    if case == "begun-without-servers":
        begun = answer_prompts.prepare(flags(output_file=output)).output.settings
        output.with_name("answers.jsonl.partial").write_text(json.dumps({"settings": begun}) + "\n")
    if case in ANSWERS:
        with pytest.raises(ValueError, match=row.pattern):
            answer_prompts.prepare(flags(output_file=output, **(said or servers)))
        assert not output.exists()
    else:
        collect(case, flags, servers, row.pattern, tmp_path)
    assert row.skipped == "–" and fake.loaded == {}


def collect(case: str, flags, servers: dict[str, str], pattern: str, folder: Path) -> None:
    judge = {"annotator": "judge", "judge_url": f"{NOBODY}/v1", "judge_model": "none"}
    judge["output_dir"] = folder / "collection"
    if case == "answers-are-there":
        answers = folder / "answers.jsonl"
        lines = [
            {"id": "a", "question": "what?", "answer": text, "image": []} for text in ("a cat.", "a dog.")
        ]
        answers.write_text("".join(json.dumps(line) + "\n" for line in lines))
        again = flags(**judge, **servers, dataset_path=answers, base_model_name=None, adapter=None)
    else:
        collect_preferences.prepare(flags(**judge, **servers)).folder.close()
        again = flags(**judge)
    with pytest.raises(ValueError, match=pattern):
        collect_preferences.prepare(again)


def test_a_server_that_can_is_taken_and_a_complete_file_asks_nobody(flags, fake, policy_folder, tmp_path):
    """The adapter is tried from where it lies, and its digest names it."""
    output = tmp_path / "answers.jsonl"
    servers = {"rollout_engine": "vllm", "vllm_servers": fake.url, "output_file": output}
    run = answer_prompts.prepare(flags(**servers))
    assert fake.loaded == {} and {body["model"] for body in fake.questions} == {"base"}
    assert run.adapter == policy_folder / POLICY and not output.exists()
    settings = run.output.settings
    assert settings["rollout_engine"] == "vllm"
    assert not {"bits", "bf16", "use_cpu", "device", "vllm_servers", "vllm_request_timeout"} & settings.keys()
    output.write_text("")
    Path(f"{output}.settings.json").write_text(json.dumps(settings))
    asked = len(fake.questions)
    assert answer_prompts.prepare(flags(**servers)).output.complete
    assert len(fake.questions) == asked


def test_a_collection_that_is_refused_leaves_no_folder(flags, tmp_path):
    judge = {"annotator": "judge", "judge_url": f"{NOBODY}/v1", "judge_model": "none"}
    folder = tmp_path / "collection"
    argv = flags(**judge, output_dir=folder, rollout_engine="vllm", vllm_servers=NOBODY)
    with pytest.raises(ValueError, match="can't answer this run's prompts"):
        collect_preferences.prepare(argv)
    assert not folder.exists()
