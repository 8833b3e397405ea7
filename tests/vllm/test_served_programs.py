"""Programs that ask servers instead of a model of their own: the same answers, and nothing left behind there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from llava_rlhf import answer_prompts, collect_preferences, evaluate
from llava_rlhf.evaluation import answer_engines, answering
from llava_rlhf.evaluation.answering import Answerer
from llava_rlhf.runs.role_files import POLICY
from llava_rlhf.runs.stopping import EngineError
from models.adapter_files import ADAPTER_WEIGHTS
from tests.support.tiny_data import TinyData, command_line, write_tiny_data
from tests.support.tiny_programs import train_policy
from tests.support.vllm_server import TINY_BASE

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
ROWS = 96
SERVED = "stored"  # how the names of their adapters begin


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> TinyData:
    return write_tiny_data(tmp_path_factory.mktemp("served_programs") / "data", ROWS)


@pytest.fixture(scope="module")
def policy(data, tmp_path_factory) -> Path:
    return train_policy(data, TINY_BASE, tmp_path_factory.mktemp("served_programs") / "policy")


@pytest.fixture
def flags(data, vllm_server):
    """Command line of a program; `url` "": it answers itself, None: the server does, and no base is loaded here."""

    def flags(url: str | None = None, **settings) -> list[str]:
        url = vllm_server.url if url is None else url
        engine = {"rollout_engine": "vllm", "vllm_servers": url} if url else {}
        known = {"base_model_name": TINY_BASE, "image_folder": data.images, "version": "tiny"}
        return command_line(**known, use_cpu=True, response_len=12, **engine, **settings)

    return flags


@pytest.fixture
def answers(data, flags):
    """Lines of answer_prompts."""

    def answers(output: Path, url: str | None = None, **settings) -> list[str]:
        argv = flags(url, output_file=output, **{"dataset_path": data.prompts, **settings})
        answer_prompts.run(answer_prompts.prepare(argv))
        return output.read_text().splitlines()

    return answers


@pytest.fixture
def no_base(monkeypatch):
    """Whoever loads a base here fails."""

    def load(*arguments):
        raise AssertionError("a base was loaded")

    monkeypatch.setattr(answer_engines, "load_base", load)


def left_behind(server) -> list[str]:
    names = [card["id"] for card in server.call("/v1/models")[1]["data"]]
    return [name for name in names if name.startswith((SERVED, "trial"))]


def test_greedy_answers_are_those_of_the_model(answers, data, policy, vllm_server, tmp_path, monkeypatch):
    """Rows with one picture, two and none, with the adapter and without."""
    local = {
        name: answers(tmp_path / f"{name}.jsonl", "", adapter=adapter)
        for name, adapter in (("adapter", policy), ("base", None))
    }
    monkeypatch.setattr(answer_engines, "load_base", None)
    assert answers(tmp_path / "served.jsonl", adapter=policy, batch_size=40) == local["adapter"]
    assert answers(tmp_path / "bare.jsonl") == local["base"] != local["adapter"]
    for lines in local.values():
        records = [json.loads(line) for line in lines]
        assert len(records) == ROWS and {len(record["image"]) for record in records} == {0, 1, 2}
        assert len({record["answer"] for record in records}) > 3
    assert left_behind(vllm_server) == [] and (policy / POLICY / ADAPTER_WEIGHTS).is_file()
    settings = json.loads((tmp_path / "served.jsonl.settings.json").read_text())
    assert settings["rollout_engine"] == "vllm" and "bits" not in settings and "vllm_servers" not in settings


@pytest.mark.nightly
def test_a_benchmark_is_answered_as_by_the_model(flags, data, policy, tmp_path, monkeypatch):
    questions = [
        {"question_id": row, "image": f"{name}", "text": "is there a big dog?", "label": "no"}
        for row, name in enumerate(sorted(path.name for path in data.images.glob("*.png")))
    ]
    file = tmp_path / "pope.json"
    file.write_text("".join(json.dumps(question) + "\n" for question in questions))
    found = {}
    for name, url in (("local", ""), ("served", None)):
        if name == "served":
            monkeypatch.setattr(answer_engines, "load_base", None)
        output = tmp_path / f"{name}.jsonl"
        more = {"benchmark": "pope", "benchmark_files": file, "adapter": policy, "output_file": output}
        evaluate.run(evaluate.prepare(["answer", *flags(url, **more)]))
        found[name] = output.read_text()
    assert found["served"] == found["local"] and len(found["local"].splitlines()) == len(questions)


def test_a_drawn_row_answers_as_alone_and_after_a_stop(answers, data, policy, no_base, tmp_path):
    drawn = {"adapter": policy, "temperature": 1.0, "samples": 2, "seed": 5}
    together = answers(tmp_path / "together.jsonl", **drawn)
    assert len({json.loads(line)["answer"] for line in together}) > 20
    assert answers(tmp_path / "small.jsonl", batch_size=3, **drawn) == together
    first = tmp_path / "first.json"
    first.write_text(json.dumps(json.loads(data.prompts.read_text())[:1]))
    assert answers(tmp_path / "alone.jsonl", dataset_path=first, **drawn) == together[:2]
    stopped = tmp_path / "stopped.jsonl"
    settings = (tmp_path / "together.jsonl.settings.json").read_text()
    begun = [json.dumps({"settings": json.loads(settings)}), *together[:7]]
    stopped.with_name("stopped.jsonl.partial").write_text("\n".join(begun) + "\n")
    assert answers(stopped, **drawn) == together


@pytest.mark.nightly
def test_pairs_to_be_judged_are_drawn(flags, data, policy, vllm_server, no_base, tmp_path):
    known = {
        "annotator": "judge",
        "judge_url": "http://127.0.0.1:9/v1",
        "judge_model": "none",
        "dataset_path": data.prompts,
        "adapter": policy,
        "max_prompts": 24,
        "prompts_per_batch": 8,
    }

    def lines(name: str, rows: frozenset[int] = frozenset()) -> list[dict]:
        run = collect_preferences.prepare(flags(output_dir=tmp_path / name, **known))
        run.folder.close()
        return [line for batch in run.source.batches(rows) for line in batch]

    first = lines("first")
    assert [line["row"] for line in first] == list(range(24))
    assert sum("outputs" in line for line in first) > 12
    assert lines("second", frozenset(range(16))) == first[16:]
    assert left_behind(vllm_server) == []
    with pytest.raises(ValueError, match="rollout_engine: 'vllm', now None"):
        collect_preferences.prepare(flags("", output_dir=tmp_path / "first", **known))


def test_a_collection_is_answered_as_by_the_model(flags, data, policy, tmp_path):
    """At temperature 0, at which nobody can collect, but where answers can be compared."""
    found = {}
    for name, url in (("local", ""), ("served", None)):
        output = {"output_dir": tmp_path / name, "annotator": "judge", "max_prompts": 24}
        judge = {"judge_url": "http://127.0.0.1:9/v1", "judge_model": "none"}
        argv = flags(url, dataset_path=data.prompts, adapter=policy, **output, **judge)
        run = collect_preferences.prepare(argv)
        run.folder.close()
        run.source.arguments.temperature = 0.0
        with run.source.answerer() as answerer:
            (records,) = answerer.answers(run.source.prompts, run.source.text, 100, 1, 0)
        found[name] = [record["answer"] for record in records]
    assert found["served"] == found["local"] and len(found["local"]) == 24


@pytest.mark.nightly
def test_an_adapter_that_the_server_loses_is_loaded_again(
    answers, policy, vllm_server, tmp_path, monkeypatch
):
    expected, ask = answers(tmp_path / "whole.jsonl", adapter=policy), Answerer._ask

    def forgetful(self, *arguments):
        for name in left_behind(vllm_server):
            vllm_server.call("/v1/unload_lora_adapter", {"lora_name": name})
        return ask(self, *arguments)

    monkeypatch.setattr(
        answer_engines, "SERVED_AHEAD", 0
    )  # as a restart does, it loses what nobody waits for
    monkeypatch.setattr(Answerer, "_ask", forgetful)
    assert answers(tmp_path / "again.jsonl", adapter=policy, batch_size=32) == expected


@pytest.mark.nightly
def test_an_adapter_whose_tensors_find_no_place_is_caught(
    answers, policy, vllm_server, tmp_path, monkeypatch
):
    """Our own look at its names would see these; the server takes them, and answers without them."""
    monkeypatch.setattr(answering, "check_adapter_fits", lambda *arguments: None)
    adapter = shutil.copytree(policy / POLICY, tmp_path / "adapter")
    weights = load_file(adapter / ADAPTER_WEIGHTS)
    renamed = {
        name.replace("language_model.", "language_model.model."): value for name, value in weights.items()
    }
    save_file(renamed, adapter / ADAPTER_WEIGHTS)
    with pytest.raises(
        EngineError, match=r"answers with .*adapter as without an adapter: its tensors found no"
    ):
        answers(tmp_path / "a.jsonl", adapter=adapter)
    assert left_behind(vllm_server) == [] and (adapter / ADAPTER_WEIGHTS).is_file()
