"""The evaluation program as a user runs it: answers, then numbers without the model, then a table."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from data_utils.shapes_files import read_scenes
from llava_rlhf import answer_prompts, evaluate, score
from llava_rlhf.runs.run_folder import read_json_lines
from llava_rlhf.tiny_world import make_world
from llava_rlhf.tiny_world.score_answers import score_answers
from tests.llava_rlhf.evaluation.scoring import score_command, train_reward, write_scoring_data
from tests.llava_rlhf.evaluation.test_mmhal import write_questions
from tests.llava_rlhf.evaluation.test_pope import write_pope
from tests.support.judge_server import JudgeServer
from tests.support.tiny_data import TinyData, command_line, write_tiny_data
from tests.support.tiny_models import save_unloadable_copy


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> TinyData:
    """Images are called 0.jpg, 1.jpg and picture0.jpg … as the benchmarks' files have them."""
    data = write_tiny_data(tmp_path_factory.mktemp("evaluate") / "data")
    images = sorted(data.images.iterdir())
    for number in range(4):
        for name in (f"{number}.jpg", f"picture{number}.jpg"):
            (data.images / name).write_bytes(images[number].read_bytes())
    return data


def act(action: str, **settings) -> None:
    evaluate.run(evaluate.prepare([action, *command_line(**settings)]))


def answering(base: Path, data: TinyData, output: Path, **settings) -> dict:
    return {
        "base_model_name": base,
        "image_folder": data.images,
        "version": "tiny",
        "response_len": 8,
        "output_file": output,
        "use_cpu": True,
        **settings,
    }


def test_pope_from_questions_to_table(data, tiny_base, tmp_path, capsys):
    files = [
        write_pope(tmp_path / f"coco_pope_{name}.json", "ynyn" + "n" * (name == "popular"))
        for name in ("random", "popular")
    ]
    pope = {"benchmark": "pope", "benchmark_files": files}
    for temperature in (0, 1):
        answers, scores = tmp_path / f"{temperature}.jsonl", tmp_path / f"{temperature}.json"
        suffix = "one word ."
        act(
            "answer",
            **answering(tiny_base, data, answers, temperature=temperature, question_suffix=suffix),
            **pope,
        )
        act("score", answers=answers, output_file=scores, resamples=200, **pope)
    lines = read_json_lines(answers)
    assert [line["id"] for line in lines] == [f"random/{n}" for n in range(1, 5)] + [
        f"popular/{n}" for n in range(1, 6)
    ]
    assert lines[0]["question"] == "Is there a thing 1 in the image?\none word ."
    numbers = json.loads(scores.read_text())
    assert list(numbers["table"]) == ["all", "random", "popular"]
    assert numbers["answer_settings"]["temperature"] == 1
    right = [
        ("yes" if answer_says_yes(line["answer"]) else "no")
        == ("yes" if line["answer_type"] == "YES_IN_YESNO" else "no")
        for line in lines
    ]
    assert numbers["table"]["all"]["accuracy"]["value"] == pytest.approx(sum(right) / 9)
    runs = [f"{name}={tmp_path / name}.json" for name in ("0", "1")]
    act("compare", runs=runs, output_dir=tmp_path / "table", resamples=200)
    assert (tmp_path / "table" / "table.md").read_text() in capsys.readouterr().out


def answer_says_yes(answer: str) -> bool:
    words = answer.partition(".")[0].replace(",", "").split(" ")
    return not {"no", "No", "not"} & set(words)


def test_mmhal_over_a_socket(data, tiny_base, tmp_path, capsys):
    questions = write_questions(tmp_path / "response_template.json")
    mmhal = {"benchmark": "mmhal", "benchmark_files": questions}
    answers, scores = tmp_path / "answers.jsonl", tmp_path / "scores" / "mmhal.json"
    act("answer", **answering(tiny_base, data, answers), **mmhal)
    with JudgeServer(lambda text: "?" if "Thing 3" in text else "Rating: 4") as server:
        server.script = [429, 500]
        judge = {"judge_url": server.url, "judge_model": "judge-1", "judge_repeats": 2}
        for _ in range(2):
            prepared = evaluate.prepare(
                ["score", *command_line(answers=answers, output_file=scores, resamples=200, **judge, **mmhal)]
            )
            evaluate.run(prepared)
            prepared[1].benchmark.judge._cache.close()
        assert len(server.requests) == 2 + 8  # the second run was answered by judge_cache.jsonl
        server.script = [401] * 9
        failing = command_line(
            answers=answers,
            output_file=tmp_path / "x.json",
            **{**judge, "judge_model": "judge-2", "judge_retries": 0},
            **mmhal,
        )
        with pytest.raises(SystemExit, match=r"401.*\nReplies so far are kept"):
            evaluate.run(evaluate.prepare(["score", *failing]))
    numbers = json.loads(scores.read_text())
    assert numbers["table"]["all"]["rating"] == {"value": 4.0, "interval": [4.0, 4.0], "items": 3}
    assert numbers["counts"]["parse_failures"] == 2 and numbers["conditions"]["judge"] == "judge-1"
    assert "parse_failures: 2" in capsys.readouterr().out


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "world"
    sizes = dict.fromkeys(("train", "init", "preference", "ppo"), 1) | {"eval": 24}
    counts = {f"{name}_images": count for name, count in sizes.items()}
    make_world.make_world(make_world.prepare(command_line(output_dir=folder, **counts)))
    return folder


def test_tiny_world_has_the_numbers_of_its_own_report(world, tmp_path):
    base = Path(__file__).parents[2] / "scripts" / "tiny" / "base"
    tiny = {"benchmark": "tiny_world", "benchmark_files": world}
    answers, scores = tmp_path / "a.jsonl", tmp_path / "a.json"
    settings = {"base_model_name": base, "image_folder": world / "images", "version": "tiny"}
    settings |= {"response_len": 28, "temperature": 1.0, "use_cpu": True, "output_file": answers}
    act("answer", **settings, **tiny)
    act("score", answers=answers, output_file=scores, resamples=200, **tiny)
    expected = score_answers(read_json_lines(answers), read_scenes(world / "scenes.json"))
    found = json.loads(scores.read_text())["table"]["all"]
    assert {name: entry["value"] for name, entry in found.items()} == pytest.approx(
        {name: entry["mean"] for name, entry in expected.items()}
    )
    assert {name: entry["items"] for name, entry in found.items()} == {
        name: entry["n"] for name, entry in expected.items()
    }
    # Answers to the world's own file of prompts are the same.
    direct = tmp_path / "direct.jsonl"
    argv = command_line(**settings | {"output_file": direct}, dataset_path=world / "eval.json")
    answer_prompts.run(answer_prompts.prepare(argv))
    without = [{k: v for k, v in line.items() if k != "captions"} for line in read_json_lines(direct)]
    assert without == read_json_lines(answers)


def test_reward_accuracy_and_best_of_n_read_what_score_wrote(tiny_base, tmp_path):
    data = write_scoring_data(tmp_path / "data")
    reward = train_reward(data, tiny_base, tmp_path / "reward")
    pairs, answers, scored = (tmp_path / name for name in ("pairs.jsonl", "answers.jsonl", "scored.jsonl"))
    score.run(score.prepare(score_command(data, reward, pairs)))
    act("score", benchmark="reward_accuracy", answers=pairs, output_file=tmp_path / "p.json", resamples=200)
    summary = json.loads(Path(f"{pairs}.summary.json").read_text())
    table = json.loads((tmp_path / "p.json").read_text())["table"]
    assert table["all"]["accuracy"]["value"] == pytest.approx(summary["all"]["accuracy"])
    assert table["all"]["margin"]["value"] == pytest.approx(summary["all"]["mean_margin"])
    settings = answering(tiny_base, data, answers, dataset_path=data.prompts, samples=4, temperature=1.0)
    answer_prompts.run(answer_prompts.prepare(command_line(**settings)))
    score.run(score.prepare(score_command(data, reward, scored, dataset_path=answers)))
    act("score", benchmark="best_of_n", answers=scored, output_file=tmp_path / "b.json", resamples=200)
    curve = json.loads((tmp_path / "b.json").read_text())
    values = [entry["value"] for entry in curve["table"]["all"].values()]
    assert list(curve["table"]["all"]) == ["best_of_1", "best_of_2", "best_of_4"] and values == sorted(values)
    by_prompt: dict[int, list[float]] = {}
    for line in read_json_lines(scored):
        by_prompt.setdefault(line["prompt_row"], []).append(line["score"])
    best = [max(group) for group in by_prompt.values()]
    assert values[-1] == pytest.approx(math.fsum(best) / len(best))
    assert curve["conditions"] == {"reward_model": str(reward), "samples": 4}


@pytest.mark.parametrize(
    ("action", "change", "says"),
    [
        ("answer", {"benchmark": "pop"}, "invalid choice: 'pop'"),
        ("answer", {"benchmark_files": []}, "pope with 0 --benchmark_files: it wants one or more"),
        ("answer", {"benchmark": "reward_accuracy", "benchmark_files": None}, "nothing is to be answered"),
        ("answer", {"image_folder": "nowhere"}, "--image_folder nowhere: no such directory"),
        ("answer", {"dataset_path": "x.json"}, "unknown flag --dataset_path"),
        ("score", {"answers": "nowhere.jsonl"}, "--answers nowhere.jsonl: no such file"),
        ("score", {"benchmark": "mmhal"}, "a judge is needed: either --judge_url and --judge_model"),
        ("score", {"benchmark": "mmhal", "judge_model": "m"}, "a judge is needed"),
        (
            "score",
            {"benchmark": "mmhal", "judge_url": "localhost", "judge_model": "m"},
            "must start with http",
        ),
        (
            "score",
            {"benchmark": "mmhal", "judge_model_path": "base", "judge_device": "tpu7"},
            "--judge_device tpu7",
        ),
        (
            "score",
            {"benchmark": "mmhal", "judge_model_path": "base", "judge_options": '{"temperature": "hot"}'},
            "temperature 'hot' must be 0 or more",
        ),
        (
            "score",
            {"benchmark": "mmhal", "judge_model_path": "base", "judge_options": '{"max_tokens": 0}'},
            "max_tokens 0 must be a whole number",
        ),
        ("answer", {"samples": 2}, "--samples 2 with --temperature 0: all would be alike"),
        ("score", {"judge_options": "{"}, "--judge_options {: no JSON"),
        ("score", {"judge_repeats": 0}, "--judge_repeats 0"),
        ("score", {"resamples": 1}, "--resamples 1: must be at least 100"),
        ("score", {"answers": "answers-3.jsonl"}, r"answers, line 1: id 'pope/3' is no item"),
        ("score", {"answers": "answers-1.jsonl"}, r"1 of 2 items have no answer, the first: pope/2"),
        ("score", {"benchmark": "best_of_n", "benchmark_files": None}, "line 1: field 'score' is None"),
        ("score", {"benchmark": "reward_accuracy", "benchmark_files": None}, "line 1: field 'row' is None"),
        ("scores", {}, "unknown action scores: choose from answer, score, compare"),
    ],
)
def test_mistakes_are_refused_before_a_model_is_loaded(action, change, says, data, tiny_base, tmp_path):
    base = save_unloadable_copy(tiny_base, tmp_path / "unloadable")
    file = write_pope(tmp_path / "pope.json", "yn")
    for identity in (1, 3):
        answer = {"id": f"pope/{identity}", "answer": "no"}
        (tmp_path / f"answers-{identity}.jsonl").write_text(json.dumps(answer) + "\n")
    settings = {"benchmark": "pope", "benchmark_files": file}
    if action == "answer":
        settings |= answering(base, data, tmp_path / "out.jsonl")
    else:
        settings |= {"answers": tmp_path / "answers-1.jsonl", "output_file": tmp_path / "out.json"}
        change = {n: tmp_path / v if str(v).startswith("answers-") else v for n, v in change.items()}
    if "judge_model_path" in change:
        change = change | {"judge_model_path": base}
    words = command_line(**settings | change)
    if change.get("benchmark_files") == []:
        words.remove("--benchmark_files")
    with pytest.raises(ValueError, match=says):
        evaluate.prepare([action, *words])


def test_a_missing_image_is_refused_with_its_name(data, tiny_base, tmp_path):
    file = write_pope(tmp_path / "pope.json", "yn", image="nowhere.jpg")
    settings = {"benchmark": "pope", "benchmark_files": file}
    argv = ["answer", *command_line(**answering(tiny_base, data, tmp_path / "a.jsonl"), **settings)]
    with pytest.raises(ValueError, match=r"nowhere\.jpg.*no such file in the image folder"):
        evaluate.prepare(argv)


@pytest.mark.parametrize("action", evaluate.ARGUMENTS)
def test_every_action_explains_itself(action, capsys):
    with pytest.raises(SystemExit) as done:
        evaluate.prepare([action, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert done.value.code == 0 and f"llava_rlhf.evaluate {action}" in text and "answers first" in text


def test_help_names_the_actions(capsys):
    with pytest.raises(SystemExit) as done:
        evaluate.prepare(["--help"])
    assert done.value.code == 0 and "compare --runs" in capsys.readouterr().out
