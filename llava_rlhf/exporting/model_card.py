"""The README.md of an exported folder: what it is, how it was made, and the numbers that were measured."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import ModelCardData

from data_utils.images import open_picture
from llava_rlhf.exporting.trained import Trained
from llava_rlhf.hub.places import hub_place, place_of_download
from llava_rlhf.runs.metrics import MEANINGS
from llava_rlhf.runs.role_files import EXPORTED_ARGUMENTS, POLICY
from llava_rlhf.runs.run_folder import read_json_lines
from llava_rlhf.runs.run_record import ARGUMENTS_FILE
from models.families.base import Family

SHOWN_METRICS = (
    "objective/rewards",
    "objective/reward_model",
    "objective/kl_sum_seq",
    "response/length_mean",
    "response/stop_rate",
)


@dataclass(frozen=True)
class Origin:
    """What the run folder of an adapter says of it.

    Attributes:
        arguments: its `arguments.json`, or None where the adapter stands alone.
        step: steps done, None where unknown.
        metrics: of that step, name → number.
    """

    arguments: Mapping[str, Any] | None
    step: int | None
    metrics: Mapping[str, float]

    @classmethod
    def of(cls, adapter: Path) -> Origin:
        """Look into the folders above a policy adapter: a run folder, or a checkpoint in one."""
        run = adapter.parent if adapter.name == POLICY else adapter
        step = None
        if run.name.startswith("checkpoint-"):
            step, run = int(run.name.removeprefix("checkpoint-")), run.parent
        # An exported adapter lies beside the record of the run behind it.
        file = (
            adapter / EXPORTED_ARGUMENTS if (adapter / EXPORTED_ARGUMENTS).is_file() else run / ARGUMENTS_FILE
        )
        arguments = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        lines = [
            line for line in read_json_lines(run / "metrics.jsonl") if step is None or line["step"] == step
        ]
        last = lines[-1] if lines else {}
        return cls(arguments, last.get("step", step), {name: last[name] for name in last if name in MEANINGS})

    @property
    def bits(self) -> int | None:
        """In how many bits the base was held in training."""
        return None if self.arguments is None else self.arguments.get("ModelArguments", {}).get("bits")


def write_card(
    folder: Path,
    base: str,
    origin: Origin,
    trained: Trained,
    family: Family,
    adapter_only: bool,
    parity: str | None,
    results: str | None,
    repository: str | None = None,
) -> None:
    """Write `README.md`, and the arguments that made the adapter beside it, without the folders of this machine.

    Args:
        folder: of the export.
        base: as the user named it.
        origin: of the adapter.
        trained: how the policy was asked.
        family: of the base.
        adapter_only: whether the folder holds a PEFT adapter, not a model.
        parity: the comparison of merged model and adapter, if made.
        results: a Markdown table to put in, if any.
        repository: on the Hub, where the folder will be sent; None: it stays a folder.
    """
    if origin.arguments is not None:
        text = (
            json.dumps(without_folders(origin.arguments), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        )
        (folder / EXPORTED_ARGUMENTS).write_text(text, encoding="utf-8")
    header = ModelCardData(
        # The Hub takes nothing but an id of its own there.
        base_model=base if repository is None else base_repository(base),
        library_name="peft" if adapter_only else "transformers",
        pipeline_tag="image-text-to-text",
        tags=[family.model_type, "rlhf", "lora", "arxiv:2309.14525"],
    )
    rank = _rank(folder) if adapter_only else None
    card = _template().render(
        header=header.to_yaml(),
        base=base,
        here=repository or "PATH_OF_THIS_FOLDER",
        rank=rank,
        vllm_rank=vllm_rank(rank) if rank else None,
        origin=origin,
        trained=trained,
        family=family,
        open_picture=inspect.getsource(open_picture).rstrip(),
        arguments_file=EXPORTED_ARGUMENTS,
        metrics=[
            (name, origin.metrics[name], MEANINGS[name]) for name in SHOWN_METRICS if name in origin.metrics
        ],
        parity=parity,
        results=results,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("model_card.md.jinja")


def base_repository(base: str) -> str | None:
    """`owner/name` of a base that is named by its id; None for any other."""
    place = hub_place(base)
    return None if place is None else place.repo


def without_folders(value: Any) -> Any:
    """A record as it may go public: of a path only the last part stays, of what was downloaded repository and commit."""
    if isinstance(value, Mapping):
        return {name: without_folders(item) for name, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    if isinstance(value, str) and value.startswith(("/", "~")):
        place = place_of_download(value)
        return str(place) if place else Path(value).name
    return value


def vllm_rank(rank: int) -> int:
    """What `--max-lora-rank` must be for an adapter: vLLM takes powers of two from 8."""
    return max(8, 1 << (rank - 1).bit_length())


def _rank(folder: Path) -> int:
    return json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["r"]
