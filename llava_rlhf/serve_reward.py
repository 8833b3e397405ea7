"""Score answers over HTTP with a reward model, for trainers of other projects: TRL, OpenRLHF, verl (docs/serve_reward.md).

    python -m llava_rlhf.serve_reward --reward_model runs/reward_model --image_folders data/coco/train2017 \\
        --image_to_caption_file data/image_to_caption.json
"""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_rlhf.pages.arguments import PageArguments
from llava_rlhf.reward_service.arguments import LimitArguments, RewardServiceArguments, ServedRowArguments
from llava_rlhf.runs.arguments import ModelArguments, cuda_is_available
from llava_rlhf.runs.ensemble_arguments import EnsembleArguments
from llava_rlhf.runs.logs import start_logging
from llava_rlhf.runs.parsing import StrictParser, run_program

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette

    from llava_rlhf.interactive.answering_models import RewardCheckpoint
    from llava_rlhf.reward_service.scoring import RowRules

KEY = "REWARD_API_KEY"


@dataclass
class RewardAddressArguments(PageArguments):
    """Where the service listens."""

    _argument_group_name = "address"

    host: str = field(
        default="127.0.0.1",
        metadata={"help": f"Address to listen on; any but this machine's own asks for a key in {KEY}."},
    )
    port: int = field(default=8100, metadata={"help": "Port to listen on."})


ARGUMENTS = (
    RewardServiceArguments,
    ServedRowArguments,
    LimitArguments,
    RewardAddressArguments,
    EnsembleArguments,
    ModelArguments,
)


@dataclass(frozen=True)
class RewardService:
    """A checked service."""

    arguments: RewardServiceArguments
    served: ServedRowArguments
    limits: LimitArguments
    address: RewardAddressArguments
    ensemble: EnsembleArguments
    model: ModelArguments
    found: "RewardCheckpoint"
    rules: "RowRules"
    key: str | None

    @property
    def folders(self) -> list[Path]:
        """Run folders of all its reward models."""
        return [self.found.folder, *map(Path, self.ensemble.more_reward_models)]


def prepare(argv: Sequence[str]) -> RewardService:
    """Parse and check everything before a model is loaded. Raises ValueError for what a user can get wrong."""
    parsed = StrictParser(ARGUMENTS, description=__doc__).parse(argv)
    arguments, served, _, address, ensemble, model = parsed
    from data_utils.facts import RewardPrompt
    from data_utils.row_filter import Limits
    from llava_rlhf.assembly.conversations import check_conversation
    from llava_rlhf.assembly.reward_models import check_members
    from llava_rlhf.assembly.roles import load_fact_book, load_text_side
    from llava_rlhf.interactive.answering_models import find_reward_model
    from llava_rlhf.reward_service.scoring import RowRules

    start_logging(main_process=True)
    key = check_reach(address)
    model.check_attention(arguments.bf16, False, arguments.use_cpu)
    ensemble.check_with(arguments.reward_model)
    found = find_reward_model(arguments.reward_model, arguments.base_model_name, "--base_model_name")
    check_members(found.folder, found.card, ensemble.more_reward_models, found.base, "--base_model_name")
    text = load_text_side(
        found.base, found.card.image_choices, found.card.template, found.card.system_message
    )
    check_conversation(found.base, text.tokenizer, text.template)
    prompt = RewardPrompt(found.card.prompt)
    served.check_read(arguments.reward_model, prompt.uses_facts)
    lengths = Limits(served.query_len, served.response_len, served.model_max_length)
    facts = load_fact_book(
        served.image_to_caption_file, served.image_to_facts_file, served.missing_captions, skip_invalid=False
    )
    rules = RowRules(text, prompt, facts, served.seed, lengths)
    address.check_free()
    return RewardService(*parsed, found, rules, key)


def application(service: RewardService) -> "Starlette":
    """The service with its reward model loaded."""
    from llava_rlhf.assembly.reward_models import trained_reward_models
    from llava_rlhf.reward_service.application import ScoringDesk, reward_application
    from llava_rlhf.reward_service.batching import Batcher
    from llava_rlhf.reward_service.scoring import Scorer, room_of_item

    arguments, served, limits, address = service.arguments, service.served, service.limits, service.address
    device = "cuda" if cuda_is_available() and not arguments.use_cpu else "cpu"
    settings = service.model.base_settings(arguments.bf16, False, device)
    reward_models = trained_reward_models(service.found.base, settings, service.folders)
    text = service.rules.text
    scorer = Scorer(reward_models, text.tokenizer.pad_token_id, service.ensemble.beta)
    desk = ScoringDesk(
        service.rules,
        Batcher(scorer, arguments.batch_size, arguments.wait_ms / 1000, limits.max_queued_rows, room_of_item),
        list(map(Path, served.image_folders)),
        limits,
        describe(service),
        served.answer_ends or [text.tokenizer.decode([stop]) for stop in text.stop_ids],
    )
    return reward_application(desk, service.key, address.hosts)


def server(service: RewardService) -> "uvicorn.Server":
    """What listens, with the reward model loaded."""
    import uvicorn

    address = service.address
    config = uvicorn.Config(
        application(service),
        host=address.host,
        port=address.port,
        log_level="warning",
        access_log=False,
        # uvicorn counts the connection that asks too, and refuses from this number on.
        limit_concurrency=service.limits.max_connections + 1,
    )
    return uvicorn.Server(config)


def run(service: RewardService) -> None:
    """Load the reward model and serve until Ctrl-C or SIGTERM; requests at work are answered first."""
    address, listening = service.address, server(service)
    print(f"scoring at http://{address.host}:{address.port} (Ctrl-C ends)", flush=True)
    listening.run()


def describe(service: RewardService) -> dict[str, Any]:
    """What /v1/model says; no paths of this machine."""
    card = service.found.card
    return {
        "version": "v1",
        "model": service.found.folder.name,
        "reward_models": [folder.name for folder in service.folders],
        "ensemble_beta": service.ensemble.beta,
        "base_model": Path(service.found.base).name,
        "base_fingerprint": card.base_fingerprint,
        "template": card.template,
        "prompt": card.prompt,
        "reads_facts": service.rules.prompt.uses_facts,
        "image_choices": asdict(card.image_choices),
        "lengths": asdict(service.rules.limits),
        "limits": asdict(service.limits),
        "batch_size": service.arguments.batch_size,
    }


def check_reach(address: RewardAddressArguments) -> str | None:
    """The key that requests have to bring, or None. Raises ValueError where other machines could ask without one."""
    key = os.environ.get(KEY)
    if not key and not address.local:
        raise ValueError(
            f"--host {address.host}: other machines could have answers scored; choose a key and set it in {KEY}, here and "
            "where training runs, or listen on 127.0.0.1"
        )
    return key or None


if __name__ == "__main__":
    run_program(prepare, run)
