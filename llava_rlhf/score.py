"""Score a preference file or an answers file with a reward model; prints accuracy and calibration.

    python -m llava_rlhf.score --reward_model_name_or_path runs/reward_model \\
        --dataset_path data/llava_7b_v1_preference.json --image_to_caption_file data/image_to_caption.json \\
        --image_folder data/coco/train2017 --output_file runs/scores.jsonl
"""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_utils.conversation import VERSIONS
from data_utils.facts import RewardPrompt
from data_utils.schema import AnswerType
from llava_rlhf.evaluation.score_arguments import ScoredDataArguments, ScoredFactArguments, ScoringArguments
from llava_rlhf.runs.arguments import DataArguments, FactArguments, ModelArguments
from llava_rlhf.runs.ensemble_arguments import EnsembleArguments
from llava_rlhf.runs.logs import announce, start_logging
from llava_rlhf.runs.parsing import StrictParser, run_program
from llava_rlhf.runs.reward_card import RewardModelCard, read_reward_card
from llava_rlhf.runs.run_folder import write_text_whole
from models.base_check import check_base
from models.base_files import read_base_facts
from models.base_place import why_absent

if TYPE_CHECKING:
    from torch import Tensor

    from data_utils.answers import AnswerDataset
    from data_utils.datasets import PreferenceDataset
    from llava_rlhf.assembly.roles import TextSide

logger = logging.getLogger(__name__)


ARGUMENTS = (ScoringArguments, ScoredDataArguments, ScoredFactArguments, ModelArguments, EnsembleArguments)


@dataclass(frozen=True)
class ScoreRun:
    """A checked scoring run; `records` say of each row of the data set everything but its scores."""

    arguments: ScoringArguments
    model: ModelArguments
    ensemble: EnsembleArguments
    base: str
    text: "TextSide"
    dataset: "PreferenceDataset | AnswerDataset"
    records: list[dict[str, Any]]


def prepare(argv: Sequence[str]) -> ScoreRun:
    """Parse and check everything before a model is loaded. Raises ValueError for what a user can get wrong."""
    arguments, data, facts, model, ensemble = StrictParser(ARGUMENTS, description=__doc__).parse(argv)
    from data_utils.answers import build_answers, file_kind
    from data_utils.building import build_preferences
    from llava_rlhf.assembly.conversations import check_conversation
    from llava_rlhf.assembly.reward_models import check_members
    from llava_rlhf.assembly.roles import load_fact_book, load_text_side, row_settings
    from llava_rlhf.evaluation.score_records import describe_answers, describe_pairs

    start_logging(main_process=True)
    model.check_attention(arguments.bf16, False, arguments.use_cpu)
    if Path(arguments.output_file).resolve() == Path(data.dataset_path).resolve():
        raise ValueError(f"--output_file {arguments.output_file} is the file to be scored; choose another")
    card = read_reward_card(arguments.reward_model_name_or_path)
    check_conditions(arguments.reward_model_name_or_path, card, data, facts)
    ensemble.check_with(arguments.reward_model_name_or_path)
    base = find_base(arguments, card)
    check_members(
        *(arguments.reward_model_name_or_path, card, ensemble.more_reward_models, base), "--base_model_name"
    )
    text = load_text_side(base, card.image_choices, card.template, card.system_message)
    check_conversation(base, text.tokenizer, text.template)
    card.check_pieces(arguments.reward_model_name_or_path, base, text.template)
    pairs = file_kind(data.dataset_path) == "pairs"
    dataset = (build_preferences if pairs else build_answers)(
        data.dataset_path,
        row_settings(data, text),
        facts=load_fact_book(
            facts.image_to_caption_file, facts.image_to_facts_file, facts.missing_captions, data.skip_invalid
        ),
        prompt=RewardPrompt(card.prompt),
        seed=arguments.seed,
    )
    announce(dataset.report, main_process=True)
    describe = describe_pairs if pairs else describe_answers
    records = describe(data.dataset_path, dataset.column("row"))
    return ScoreRun(arguments, model, ensemble, base, text, dataset, records)


def run(prepared: ScoreRun) -> None:
    """Load, score, write both files whole and print the numbers."""
    import torch

    from llava_rlhf.assembly.reward_models import trained_reward_models
    from llava_rlhf.evaluation.reward_scoring import score_dataset
    from llava_rlhf.evaluation.score_records import json_line
    from llava_rlhf.functional.rewards import ensemble_scores

    arguments, report = prepared.arguments, prepared.dataset.report
    device = "cuda" if torch.cuda.is_available() and not arguments.use_cpu else "cpu"
    base_settings = prepared.model.base_settings(arguments.bf16, False, device)
    ensemble = prepared.ensemble
    folder, *others = map(Path, (arguments.reward_model_name_or_path, *ensemble.more_reward_models))
    reward_models = trained_reward_models(prepared.base, base_settings, [folder, *others])
    pad_id = prepared.text.tokenizer.pad_token_id
    members = score_dataset(reward_models, prepared.dataset, pad_id, arguments.batch_size)
    scores, spread = ensemble_scores(members, ensemble.beta) if others else (members[..., 0], None)
    numbers, table = summarise(prepared, scores)
    rows = {"read": report.rows_read, "scored": report.rows_kept, "dropped": dict(report.dropped)}
    summary = {
        "reward_model": str(folder),
        "base_model": prepared.base,
        "dataset": report.file,
        "rows": rows,
        **numbers,
    }
    if others:
        summary |= {
            "more_reward_models": list(map(str, others)),
            "ensemble_beta": ensemble.beta,
            "reward_spread": float(spread.mean()),
        }
    path = Path(arguments.output_file)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_whole(path, "".join(map(json_line, scored_records(prepared, scores, members))))
    write_text_whole(arguments.summary_file, json.dumps(summary, indent=2) + "\n")
    who = " and ".join(map(str, (folder, *others)))
    print(f"{report.rows_kept} of {report.rows_read} rows scored by {who}\n{table}")
    print(f"wrote {path} and {arguments.summary_file}")


def scored_records(prepared: ScoreRun, scores: "Tensor", members: "Tensor") -> list[dict[str, Any]]:
    """The rows of the data set with their scores float32[N, k], and those of K reward models float32[N, k, K] if K > 1."""
    from data_utils.datasets import PreferenceDataset
    from llava_rlhf.evaluation.score_records import with_answer_score, with_members, with_pair_scores

    add_scores = with_pair_scores if isinstance(prepared.dataset, PreferenceDataset) else with_answer_score
    records = [add_scores(*row) for row in zip(prepared.records, scores.tolist(), strict=True)]
    if members.shape[-1] == 1:
        return records
    return [with_members(*row) for row in zip(records, members.tolist(), strict=True)]


def summarise(prepared: ScoreRun, scores: "Tensor") -> tuple[dict[str, Any], str]:
    """Numbers of the scores float32[N, k], over all rows and for each answer type, and the table that shows them."""
    import torch

    from data_utils.datasets import PreferenceDataset
    from llava_rlhf.evaluation.reward_summary import (
        answer_numbers,
        by_answer_type,
        format_answers,
        format_pairs,
        pair_numbers,
    )

    dataset = prepared.dataset
    answer_types = [record.get("answer_type", AnswerType.GENERAL.name) for record in prepared.records]
    if isinstance(dataset, PreferenceDataset):
        columns = (scores, torch.tensor(dataset.column("preference")) - 1)
        numbers, show = pair_numbers, format_pairs
    else:
        columns, numbers, show = (scores[:, 0],), answer_numbers, format_answers
    overall, by_type = numbers(*columns), by_answer_type(numbers, answer_types, *columns)
    return {"all": overall, "by_answer_type": by_type}, show(overall, by_type)


def check_conditions(folder: str, card: RewardModelCard, data: DataArguments, facts: FactArguments) -> None:
    """Raise ValueError where a flag asks for other conditions than the reward model was trained under.

    A flag that was not given (None) asks for nothing.
    """
    if card.template not in VERSIONS:
        raise ValueError(f"{folder}: reward_model.json names an unknown template {card.template!r}")
    prompt = RewardPrompt(card.prompt)
    if facts.reward_prompt_file is not None:
        prompt = RewardPrompt.from_file(facts.reward_prompt_file)
        if facts.facts is False:
            prompt = prompt.without_facts()
    asked = replace(
        card,
        prompt=prompt.text,
        facts=prompt.uses_facts if facts.facts is None else facts.facts,
        template=data.version or card.template,
        **{name: value or getattr(card, name) for name, value in vars(data.image_choices()).items()},
        system_message=card.system_message if data.system_message is None else data.system_message,
    )
    differences = card.differences(asked)
    if differences:
        raise ValueError(
            f"{folder} was trained under other conditions: "
            + "; ".join(differences)
            + ". Leave these flags out, and the reward model's own conditions hold."
        )


def find_base(arguments: ScoringArguments, card: RewardModelCard) -> str:
    """The base to load: the one given, else the one of the card.

    Raises:
        ValueError: it is not there, the adapter does not fit it, or it is unlike the base of the training.
    """
    folder = arguments.reward_model_name_or_path
    base = arguments.base_model_name or card.find_base(folder, "--base_model_name")
    if not Path(base).is_dir():
        raise ValueError(
            f"the base of the reward model, {base}, is no directory (reward_model.json of {folder} names "
            f"{card.base_model}): {why_absent(base)}; name it with --base_model_name"
        )
    from llava_rlhf.assembly.reward_models import check_reward_files

    check_base(base)
    check_reward_files(folder, card, base, "--base_model_name")
    trained_on = Path(card.base_model)
    if trained_on.resolve() != Path(base).resolve():
        logger.warning("%s was trained on %s; the scores are taken on %s", folder, trained_on, base)
        if (trained_on / "config.json").is_file() and read_base_facts(base) != read_base_facts(trained_on):
            raise ValueError(
                f"--base_model_name {base} is another model than {trained_on}, on which {folder} was trained: "
                f"{read_base_facts(base)}, not {read_base_facts(trained_on)}"
            )
    return base


if __name__ == "__main__":
    run_program(prepare, run)
