"""Answers that were interrupted anywhere, and continued: the same file as without interruption, or a refusal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llava_rlhf import answer_prompts
from llava_rlhf.evaluation import answer_runs
from llava_rlhf.evaluation.answer_files import AnswerFile, read_settings
from llava_rlhf.evaluation.answering import Answerer
from llava_rlhf.runs.run_folder import write_text_whole
from tests.support.tiny_data import TinyData, command_line, write_tiny_data


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> TinyData:
    return write_tiny_data(tmp_path_factory.mktemp("answers") / "data")


class Killed(Exception):
    """Stands for a kill."""


def command(data: TinyData, base: Path, output: Path, **settings) -> list[str]:
    defaults = {
        "base_model_name": base,
        "dataset_path": data.prompts,
        "image_folder": data.images,
        "version": "tiny",
        "response_len": 12,
        "output_file": output,
        "use_cpu": True,
        "temperature": 1.0,
        "samples": 3,
        "seed": 5,
        "batch_size": 7,
    }
    return command_line(**defaults | settings)


def answer(argv: list[str]) -> None:
    answer_prompts.run(answer_prompts.prepare(argv))


def answer_and_die(argv: list[str], monkeypatch, batches: int) -> None:
    """Answer so many batches, then die."""
    answers, done = Answerer._answer, []

    def dying(self, *args):
        if len(done) == batches:
            raise Killed
        done.append(1)
        return answers(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Answerer, "_answer", dying)
        with pytest.raises(Killed):
            answer(argv)


def test_a_continued_file_is_the_uninterrupted_one(data, tiny_base, tmp_path, monkeypatch):
    """48 sampled answers: killed before the first batch, after 14 of them with a torn line, and after 5 more in batches
    of another size."""
    whole, other = tmp_path / "whole.jsonl", tmp_path / "other.jsonl"
    answer(command(data, tiny_base, whole))
    for batches, size, answers in ((0, 7, 0), (2, 7, 14), (1, 5, 19)):
        answer_and_die(command(data, tiny_base, other, batch_size=size), monkeypatch, batches)
        partial = other.with_name("other.jsonl.partial")
        assert len(partial.read_text().splitlines()) == 1 + answers and not other.exists()
        with partial.open("a") as file:
            file.write('{"id": "torn')
    answer(command(data, tiny_base, other))
    assert other.read_bytes() == whole.read_bytes() and len(whole.read_text().splitlines()) == 48
    assert not list(tmp_path.glob("*.partial"))
    assert read_settings(other) == read_settings(whole)


def test_a_complete_file_is_not_made_again(data, tiny_base, tmp_path, monkeypatch, capsys):
    output = tmp_path / "a.jsonl"
    answer(command(data, tiny_base, output))
    content = output.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(answer_runs, "open_answerer", None)  # would fail if it were asked
        answer(command(data, tiny_base, output, batch_size=3))
    assert "nothing to do" in capsys.readouterr().out
    answer(command(data, tiny_base, output, seed=6))  # another question: answered, and replaced as a whole
    assert output.read_bytes() != content and read_settings(output)["seed"] == 6


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"temperature": 0.5}, "temperature was 1.0, now 0.5"),
        ({"seed": 6}, "seed was 5, now 6"),
        ({"response_len": 11}, "response_len was 12, now 11"),
    ],
)
def test_other_settings_do_not_continue(change, says, data, tiny_base, tmp_path, monkeypatch):
    output = tmp_path / "a.jsonl"
    answer_and_die(command(data, tiny_base, output), monkeypatch, 1)
    before = output.with_name("a.jsonl.partial").read_bytes()
    with pytest.raises(
        ValueError, match=f"begun under other settings: {says}. Go on with those, or delete it"
    ):
        answer_prompts.prepare(command(data, tiny_base, output, **change))
    assert output.with_name("a.jsonl.partial").read_bytes() == before


def test_other_prompts_or_weights_under_the_same_name_do_not_continue(data, tiny_base, tmp_path, monkeypatch):
    prompts = tmp_path / "prompts.json"
    rows = json.loads(data.prompts.read_text())
    prompts.write_text(json.dumps(rows))
    argv = command(data, tiny_base, tmp_path / "a.jsonl", dataset_path=prompts)
    answer_and_die(argv, monkeypatch, 1)
    prompts.write_text(json.dumps(rows[:-1]))
    with pytest.raises(ValueError, match="dataset_sha256 was"):
        answer_prompts.prepare(argv)


def test_a_file_of_another_kind_is_not_continued(tmp_path):
    (tmp_path / "a.jsonl.partial").write_text('{"id": 1}\n')
    with pytest.raises(ValueError, match="its first line holds no settings"):
        AnswerFile(tmp_path / "a.jsonl", {})
    (tmp_path / "b.jsonl").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        AnswerFile(tmp_path / "b.jsonl", {})


def test_a_kill_between_the_last_steps_loses_nothing(tmp_path, monkeypatch):
    """Killed after the last answer, at each of the steps that make the file whole."""
    records = [{"id": number} for number in range(3)]
    for step in range(4):
        output = AnswerFile(tmp_path / f"{step}.jsonl", {"seed": step})
        steps = iter(range(4))

        def die_at(original, steps=steps, step=step):
            def function(*args, **settings):
                if next(steps) == step:
                    raise Killed
                return original(*args, **settings)

            return function

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", die_at(Path.unlink))
            name = "llava_rlhf.evaluation.answer_files.write_text_whole"
            patch.setattr(name, die_at(write_text_whole))
            with pytest.raises(Killed):
                output.write(lambda first: [records[first:]])
        asked = []
        if not AnswerFile(output.path, {"seed": step}).complete or step == 3:
            output.write(lambda first, asked=asked: asked.append(first) or [])
            assert asked == [3]
        assert output.complete
        assert [json.loads(line) for line in output.path.read_text().splitlines()] == records
