"""One self-contained HTML page on a tiny-world run: what changed, health, curves, and a dozen images before and after.

scripts/tiny/run_all.sh calls it with the results of its stages.
"""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_utils.images import image_data_url
from data_utils.shapes_files import read_scenes
from data_utils.shapes_world import NAMES, Scene, measure_description
from llava_rlhf.reporting.arguments import RunReportArguments
from llava_rlhf.reporting.changes import Measured
from llava_rlhf.reporting.figures import curves
from llava_rlhf.reporting.health import health
from llava_rlhf.reporting.page import CALIBRATION, critics_calibration
from llava_rlhf.reporting.provenance import link_to, origin
from llava_rlhf.reporting.rendering import Figures, render
from llava_rlhf.reporting.report import read_for_report, write_report
from llava_rlhf.reporting.run_data import RunData
from llava_rlhf.runs.metrics import MEANINGS
from llava_rlhf.runs.parsing import StrictParser, run_program
from llava_rlhf.runs.run_folder import read_json_lines, write_text_whole
from llava_rlhf.tiny_world.compare_answers import COLUMNS, compare_answers
from llava_rlhf.tiny_world.score_answers import score_answers

CURVES = (
    "objective/rewards",
    "objective/reward_model",
    "objective/kl_sum_seq",
    "response/length_mean",
    "objective/correct_bonus",
    "ppo/val/explained_variance",
)
SHOWN_IMAGES = 12


@dataclass
class ReportArguments:
    """Where the pieces of the run are."""

    _argument_group_name = "report"

    world: str = field(metadata={"help": "Folder of make_world."})
    ppo: str = field(metadata={"help": "PPO run folder."})
    answers: list[str] = field(
        metadata={"help": "NAME=FILE for each row of the table; the first is 'before', the last 'after'."}
    )
    output_file: str = field(metadata={"help": "HTML file to write."})
    ppo_report_file: str | None = field(
        default=None,
        metadata={"help": "HTML file to write with every metric and the rollouts of the PPO run."},
    )
    reward_models: list[str] = field(
        default_factory=list, metadata={"help": "NAME=FOLDER of reward-model runs."}
    )
    best_of_n: list[str] = field(
        default_factory=list,
        metadata={
            "help": "NAME=FILE that llava_rlhf.score wrote of several descriptions a picture, by reward model."
        },
    )

    def __post_init__(self):
        for pair in (*self.answers, *self.reward_models, *self.best_of_n):
            name, _, path = pair.partition("=")
            if not name or not Path(path).exists():
                raise ValueError(f"{pair!r} should be NAME=PATH with an existing path")


def prepare(argv: Sequence[str]) -> ReportArguments:
    """Parse the command line. Raises ValueError for missing files."""
    return StrictParser((ReportArguments,), description=__doc__).parse(argv)[0]


def run(arguments: ReportArguments) -> None:
    """Score, draw, write the page and print the table."""
    from llava_rlhf.tiny_world.best_of_n import compare_best  # loads torch

    world, target = Path(arguments.world), Path(arguments.output_file)
    scenes = read_scenes(world / "scenes.json")
    answers = {name: read_json_lines(path) for name, path in map(_split, arguments.answers)}
    names = list(answers)
    change = compare_answers((names[0], names[-1]), [answers[name] for name in (names[0], names[-1])], scenes)
    scores = {name: score_answers(records, scenes) for name, records in answers.items()}
    reward_models = {
        name: reward_model_accuracy(Path(path)) for name, path in map(_split, arguments.reward_models)
    }
    scored = {name: read_json_lines(path) for name, path in map(_split, arguments.best_of_n)}
    best = compare_best(scored, scenes) if scored else None
    of_run = RunReportArguments(
        [arguments.ppo], image_folder=str(world / "images"), output_file=arguments.ppo_report_file
    )
    runs = read_for_report(of_run)
    page = whole_page(
        *(arguments, change, scores, reward_models, best, runs[0], scenes),
        gallery(answers, scenes, world / "images"),
    )
    write_text_whole(target, page)
    print(text_table(scores, reward_models))
    print(change.sentence())
    print(f"wrote {target}")
    if arguments.ppo_report_file is not None:
        whole = link_to(target, of_run.target, "report on the whole run")
        write_report(of_run, runs, change, [whole])


def whole_page(
    arguments: ReportArguments,
    change: Measured,
    scores: Mapping[str, Mapping[str, Any]],
    reward_models: Mapping[str, Mapping[str, float]],
    best: Measured | None,
    ppo: RunData,
    scenes: Mapping[str, Scene],
    examples: Sequence[Mapping[str, Any]],
) -> str:
    """HTML text of the page."""
    target, figures = Path(arguments.output_file), Figures()
    beside = Path(arguments.ppo_report_file) if arguments.ppo_report_file is not None else None
    known = origin(ppo, "PPO", target, [link_to(beside, target, "report on the PPO run")] if beside else [])
    drawn = [
        {"name": name, "meaning": meaning, "number": figures.add(curves({"": points}, "PPO step"))}
        for name, meaning, points in [
            *((name, MEANINGS[name], ppo.series(name)) for name in CURVES),
            *rollout_curves(Path(arguments.ppo), scenes),
        ]
        if points[0]
    ]
    critic = critics_calibration(ppo)
    if critic is not None:
        drawn.append(
            {"name": "calibration of the critic", "meaning": CALIBRATION, "number": figures.add(critic)}
        )
    return render(
        "tiny_world/report.html.jinja",
        {"figures": figures.all},
        title="Factually Augmented RLHF on the tiny world",
        headline=change.sentence(),
        subline=f"on held-out pictures, {change.columns[0]} → {change.columns[-1]}",
        origins=[known],
        change=change,
        checks=[("PPO", health(ppo, change))],
        columns=COLUMNS,
        scores=scores,
        reward_models=reward_models,
        best=best,
        figures=drawn,
        examples=examples,
        notes=ppo.notes,
    )


def reward_model_accuracy(folder: Path) -> dict[str, float]:
    """Held-out pair accuracy of the kept checkpoint, from the run's last evaluation."""
    final = [line for line in read_json_lines(folder / "metrics.jsonl") if "final_accuracy" in line]
    if not final:
        raise ValueError(f"{folder}/metrics.jsonl has no final_accuracy: train with --eval_size above 0")
    return {"accuracy": final[-1]["final_accuracy"]}


def rollout_curves(
    ppo: Path, scenes: Mapping[str, Scene]
) -> list[tuple[str, str, tuple[list[int], list[float]]]]:
    """Hallucination and recall of the sampled descriptions of each PPO step: name, meaning, (steps, values)."""
    steps, hallucination, recall = [], [], []
    for path in sorted((ppo / "rollouts").glob("*.jsonl")):
        rows = [row for row in read_json_lines(path) if row["answer_type"] == "GENERAL"]
        measured = [measure_description(scenes[row["image"][0]].names, row["response"]) for row in rows]
        if measured:
            steps.append(int(path.stem))
            hallucination.append(sum(one.hallucinated for one in measured) / len(measured))
            recall.append(sum(one.recall for one in measured) / len(measured))
    return [
        (
            "hallucination",
            "share of the step's descriptions that name an object that is not there",
            (steps, hallucination),
        ),
        ("recall", "share of the objects that the step's descriptions name", (steps, recall)),
    ]


def text_table(
    scores: Mapping[str, Mapping[str, Any]], reward_models: Mapping[str, Mapping[str, float]]
) -> str:
    """The table as printed on the terminal: mean ± standard error."""
    lines = [f"{'':<22}" + "".join(f"{title:>28}" for title in COLUMNS.values())]
    for name, numbers in scores.items():
        cells = [f"{numbers[key]['mean']:.3f} ± {numbers[key]['standard_error']:.3f}" for key in COLUMNS]
        lines.append(f"{name:<22}" + "".join(f"{cell:>28}" for cell in cells))
    lines += [
        f"{name:<26} held-out pair accuracy {entry['accuracy']:.3f}" for name, entry in reward_models.items()
    ]
    return "\n".join(lines)


def gallery(
    answers: Mapping[str, Sequence[Mapping[str, Any]]], scenes: Mapping[str, Scene], images: Path
) -> list[dict[str, Any]]:
    """The first descriptions of the evaluation set: image, truth, and the answers of the first and last model."""
    names = list(answers)
    before, after = answers[names[0]], answers[names[-1]]
    pairs = [pair for pair in zip(before, after, strict=True) if pair[0]["answer_type"] == "GENERAL"]
    return [
        {
            "image": image_data_url(images / first["image"][0]),
            "truth": ", ".join(scenes[first["image"][0]].names),
            "answers": [
                (name, marked_words(record["answer"], scenes[record["image"][0]].names))
                for name, record in zip((names[0], names[-1]), (first, last), strict=True)
            ],
        }
        for first, last in pairs[:SHOWN_IMAGES]
    ]


def marked_words(answer: str, truth: Sequence[str]) -> list[tuple[str, str]]:
    """The words of an answer, each with its class: `true` or `false` object, or empty."""
    marked = []
    for word in answer.split():
        name = word.strip(".,")
        marked.append((word, "" if name not in NAMES else "true" if name in truth else "false"))
    return marked


def _split(pair: str) -> tuple[str, str]:
    name, _, path = pair.partition("=")
    return name, path


if __name__ == "__main__":
    run_program(prepare, run)
