"""A page that compares checkpoints: one picture and question, their answers side by side, a reward model's score under each.

    python -m llava_rlhf.demo --reward_model_name_or_path runs/reward_model \\
        --checkpoints SFT=checkpoints/llava-7b-v1.5-224-sft RLHF=checkpoints/llava-7b-v1.5-224-sft,runs/rl_model
"""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llava_rlhf.interactive.arguments import GenerationArguments
from llava_rlhf.pages.arguments import PageArguments
from llava_rlhf.runs.arguments import ModelArguments
from llava_rlhf.runs.logs import start_logging
from llava_rlhf.runs.parsing import StrictParser, run_program
from llava_rlhf.runs.role_files import check_pieces, check_template

if TYPE_CHECKING:
    from llava_rlhf.interactive.answering_models import Checkpoint, RewardCheckpoint


@dataclass
class DemoArguments:
    """Who answers, and who scores."""

    _argument_group_name = "comparison"

    checkpoints: list[str] = field(
        metadata={
            "help": "NAME=BASE for a base as it is, NAME=BASE,ADAPTER for an adapter on it; any number of them."
        }
    )
    reward_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Reward model whose score stands under each answer."}
    )
    reward_base_model_name: str | None = field(
        default=None, metadata={"help": "Base of the reward model (default: the one in reward_model.json)."}
    )


@dataclass(frozen=True)
class DemoRun:
    """A checked comparison."""

    checkpoints: list["Checkpoint"]
    reward_model: "RewardCheckpoint | None"
    generation: GenerationArguments
    model: ModelArguments
    page: PageArguments


def prepare(argv: Sequence[str]) -> DemoRun:
    """Parse and check everything before a model is loaded. Raises ValueError for what a user can get wrong."""
    arguments, generation, page, model = StrictParser(
        (DemoArguments, GenerationArguments, PageArguments, ModelArguments), description=__doc__
    ).parse(argv)
    from llava_rlhf.assembly.conversations import check_conversation
    from llava_rlhf.assembly.image_choices import check_limits
    from llava_rlhf.assembly.roles import load_text_side
    from llava_rlhf.interactive.answering_models import find_reward_model, parse_checkpoint

    start_logging(main_process=True)
    model.check_attention(generation.bf16, False, generation.use_cpu)
    checkpoints = [parse_checkpoint("--checkpoints", text) for text in arguments.checkpoints]
    names = [checkpoint.name for checkpoint in checkpoints]
    if len(set(names)) < len(names):
        raise ValueError(f"--checkpoints: the names {', '.join(names)} are not all different")
    for checkpoint in checkpoints:
        check_template(checkpoint.base, checkpoint.adapter, *generation.template)
    for base in {checkpoint.base for checkpoint in checkpoints}:
        text = load_text_side(base, generation.image_choices(), *generation.template)
        check_conversation(base, text.tokenizer, text.template)
        for checkpoint in checkpoints:
            if checkpoint.base == base:
                check_limits(base, checkpoint.adapter, text.image_choices)
                check_pieces(base, checkpoint.adapter, text.template)
    reward_model = None
    if arguments.reward_model_name_or_path is not None:
        reward_model = find_reward_model(
            arguments.reward_model_name_or_path, arguments.reward_base_model_name, "--reward_base_model_name"
        )
    elif arguments.reward_base_model_name is not None:
        raise ValueError("--reward_base_model_name needs --reward_model_name_or_path")
    page.check_free()
    return DemoRun(checkpoints, reward_model, generation, model, page)


def run(prepared: DemoRun) -> None:
    """Load everybody and serve the page until Ctrl-C."""
    from llava_rlhf.interactive.answering_models import load_models
    from llava_rlhf.pages.serving import serve

    generation = prepared.generation
    models = load_models(
        prepared.checkpoints,
        prepared.reward_model,
        generation.base_settings(prepared.model),
        generation.template,
        generation.image_choices(),
        generation.lengths,
    )

    def build():
        from llava_rlhf.pages.comparison_page import comparison_page

        return comparison_page(models, generation.temperature, generation.seed)

    serve(build, prepared.page)


if __name__ == "__main__":
    run_program(prepare, run)
