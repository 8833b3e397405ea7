"""Convert checkpoints of the original LLaVA-RLHF code to the Hugging Face layouts used here, or adapters back.

    python -m llava_rlhf.convert_checkpoint --input downloads/LLaVA-RLHF-7b-v1.5-224/sft_model \\
        --output checkpoints/llava-7b-v1.5-224-sft

What `--input` holds is found out: an SFT model, a policy, a reward model or a PPO checkpoint.
"""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from data_utils.conversation import TEMPLATES
from data_utils.facts import RewardPrompt
from data_utils.images import ASPECT_RATIOS
from llava_rlhf.conversion.adapter_layouts import (
    POLICY_KIND,
    PPO_KIND,
    REWARD_KIND,
    AdapterFiles,
    find_original,
    find_ours,
)
from llava_rlhf.runs.output_place import check_output
from llava_rlhf.runs.parsing import StrictParser, run_program
from llava_rlhf.runs.reward_card import RewardModelCard
from llava_rlhf.runs.role_files import POLICY, VALUE
from models.adapter_files import original_adapter_folders
from models.base_fingerprint import base_fingerprint
from models.base_kind import check_kind
from models.base_place import check_place, why_absent

if TYPE_CHECKING:
    from llava_rlhf.conversion.adapters import AdapterConversion
    from llava_rlhf.conversion.base_model import BaseConversion

BASE_KIND = "base (SFT) model"
BACK = "original"

# Which flags each conversion reads, and which of them it needs.
FLAGS = {
    ("hf", BASE_KIND): "vision_tower",
    ("hf", POLICY_KIND): "base_model",
    ("hf", REWARD_KIND): "base_model reward_prompt_file reward_head version image_aspect_ratio",
    ("hf", PPO_KIND): "base_model value_base_model",
    (BACK, POLICY_KIND): "base_model",
    (BACK, REWARD_KIND): "base_model",
    (BACK, PPO_KIND): "base_model value_base_model",
}
NEEDED = {
    ("hf", POLICY_KIND): "base_model",
    ("hf", REWARD_KIND): "base_model reward_prompt_file",
    ("hf", PPO_KIND): "base_model",
}


@dataclass
class ConvertArguments:
    """What to convert, and what the original's files do not say."""

    _argument_group_name = "conversion"

    input: str = field(metadata={"help": "Folder of an SFT model, policy, reward model or PPO checkpoint."})
    output: str = field(metadata={"help": "New directory; must not exist."})
    to: Literal["hf", "original"] = field(
        default="hf",
        metadata={
            "help": "hf: from the original's files to Hugging Face's; original: adapters of ours back."
        },
    )
    vision_tower: str | None = field(
        default=None, metadata={"help": "SFT models: CLIP directory of the vision tower."}
    )
    base_model: str | None = field(
        default=None,
        metadata={"help": "Adapters: their base, converted before; checked, and recorded as their base."},
    )
    value_base_model: str | None = field(
        default=None,
        metadata={"help": "PPO checkpoints: base of the value model, where it is not that of the policy."},
    )
    reward_head: str | None = field(
        default=None, metadata={"help": "Reward models: file of the head, where it does not lie in --input."}
    )
    reward_prompt_file: str | None = field(
        default=None, metadata={"help": "Reward models: the reward prompt they were trained with."}
    )
    version: str | None = field(
        default=None,
        metadata={
            "help": f"Reward models: conversation template, {', '.join(TEMPLATES)} (default v1).",
            "choices": sorted(TEMPLATES),
        },
    )
    image_aspect_ratio: Literal["pad", "square"] | None = field(
        default=None,
        metadata={
            "help": "Reward models: how images were made square (default: as their base says, else pad)."
        },
    )


@dataclass(frozen=True)
class Conversion:
    """A checked conversion of a known kind."""

    arguments: ConvertArguments
    kind: str
    plan: "AdapterConversion | BaseConversion"


def prepare(argv: Sequence[str]) -> Conversion:
    """Find out what there is and check all of it. Raises ValueError before anything is written."""
    (arguments,) = StrictParser((ConvertArguments,), description=__doc__).parse(argv)
    output = Path(arguments.output)
    check_output(output, 0)  # before minutes of checking weights
    conversion = find_conversion(arguments)
    check_output(output, conversion.plan.nbytes)
    return conversion


def find_conversion(arguments: ConvertArguments) -> Conversion:
    """What there is to convert, checked. Raises ValueError."""
    from llava_rlhf.conversion.adapters import plan_to_original, plan_to_ours
    from llava_rlhf.conversion.base_model import plan_base

    source = Path(os.path.abspath(arguments.input))
    if not source.is_dir():
        reason = "it is a file" if source.is_file() else why_absent(arguments.input)
        raise ValueError(f"--input {source} is no directory: {reason}")
    files = find_adapters(arguments, source)
    check_flags(arguments, BASE_KIND if files is None else files.kind)
    if files is None:
        tower = None if arguments.vision_tower is None else Path(arguments.vision_tower)
        return Conversion(arguments, BASE_KIND, plan_base(source, tower))
    for name in ("base_model", "value_base_model"):  # recorded, so they must be found from elsewhere
        if getattr(arguments, name) is not None:
            check_place(getattr(arguments, name))
            setattr(arguments, name, os.path.abspath(getattr(arguments, name)))
    bases = dict.fromkeys(files.adapters, arguments.base_model)
    if arguments.value_base_model is not None:
        bases[VALUE] = arguments.value_base_model
    if arguments.to == BACK:
        return Conversion(arguments, files.kind, plan_to_original(files, bases))
    card = make_card(arguments) if files.kind == REWARD_KIND else None
    return Conversion(arguments, files.kind, plan_to_ours(files, bases, card))


def find_adapters(arguments: ConvertArguments, source: Path) -> AdapterFiles | None:
    """The adapters in `source`, or None when it is to be read as an SFT model. Raises ValueError when it is neither."""
    is_model = (source / "config.json").is_file()
    if arguments.to == BACK:
        if is_model:
            raise ValueError(f"{source} is a model; --to {BACK} converts adapters only")
        return find_ours(source)
    head = None if arguments.reward_head is None else Path(arguments.reward_head)
    files = find_original(source, head)
    if files is None and not is_model:
        places = [os.path.relpath(folder, source) for folder in original_adapter_folders(source)]
        inside = sorted(path.name for path in source.glob("checkpoint-*"))
        hint = f". It holds {', '.join(inside)}: name one of them" if inside else ""
        raise ValueError(
            f"{source} holds nothing to convert: no config.json of an SFT model, and no adapter_config.json or "
            f"adapter_model.bin in {', '.join(places)}{hint}"
        )
    weights = [*source.glob("pytorch_model*"), *source.glob("model*.safetensors")]
    if files is not None and is_model and weights:
        raise ValueError(
            f"{source} holds an SFT model and an adapter; convert copies in folders of their own"
        )
    return files


def check_flags(arguments: ConvertArguments, kind: str) -> None:
    """Raise ValueError for a flag that this kind of checkpoint has no use for, or lacks."""
    case = (arguments.to, kind)
    optional = {name for names in FLAGS.values() for name in names.split()}
    what = f"{arguments.input} is a {kind}"
    for name in sorted(optional - set(FLAGS[case].split())):
        if getattr(arguments, name) is not None:
            head = "a reward model has a file reward_head in --input; name one that lies elsewhere: --reward_head FILE"
            why = f" ({head})" if kind == POLICY_KIND else ""
            raise ValueError(f"--{name} does not belong here: {what}{why}")
    missing = [f"--{name}" for name in NEEDED.get(case, "").split() if getattr(arguments, name) is None]
    if missing:
        raise ValueError(f"{what}: it needs {' and '.join(missing)} as well")


def make_card(arguments: ConvertArguments) -> RewardModelCard:
    """What a reward model was trained with, as the command line tells it. Raises ValueError for a bad prompt file."""
    prompt = RewardPrompt.from_file(arguments.reward_prompt_file)
    return RewardModelCard(
        arguments.base_model,
        prompt.text,
        prompt.uses_facts,
        arguments.version or "v1",
        arguments.image_aspect_ratio or base_aspect_ratio(arguments.base_model),
        base_fingerprint(arguments.base_model),
    )


def base_aspect_ratio(base: str) -> str:
    """How the base was trained to see images, which a conversion keeps in its `config.json`; `pad` where it is not told."""
    check_kind(base)
    ratio = json.loads((Path(base) / "config.json").read_text(encoding="utf-8")).get("image_aspect_ratio")
    if ratio not in (None, *ASPECT_RATIOS):
        raise ValueError(
            f"{base}/config.json: image_aspect_ratio {ratio!r} is not one of {', '.join(ASPECT_RATIOS)}; say how the reward "
            "model was trained: --image_aspect_ratio"
        )
    return ratio or "pad"


def run(conversion: Conversion) -> None:
    """Write the result, whole or not at all, and say how to go on."""
    from llava_rlhf.conversion.adapters import AdapterConversion
    from llava_rlhf.conversion.base_model import BaseConversion

    arguments, plan = conversion.arguments, conversion.plan
    target = Path(arguments.output)
    print(f"{arguments.input} is a {conversion.kind}")
    if isinstance(plan, BaseConversion):
        print(plan.tower_line)
    plan.write(target)
    for path in sorted(target.rglob("*")):
        if path.is_file():
            print(f"wrote {path} ({path.stat().st_size:,} bytes)")
    if isinstance(plan, AdapterConversion) and plan.files.left_out:
        print(f"not converted: {', '.join(plan.files.left_out)}")
        if "optimizer.pt" in plan.files.left_out:
            print(
                "(a run can't be continued from there: its optimizer state is not even restored by the original)"
            )
    if isinstance(plan, AdapterConversion) and plan.units is not None and plan.units.sees_facts:
        print(
            "(its critic read the reward prompt with its facts before the response; the original's reads none, so that its values "
            "mean little there)"
        )
    print(f"next: {next_command(conversion)}")


def next_command(conversion: Conversion) -> str:
    """A command that uses the result."""
    arguments, kind = conversion.arguments, conversion.kind
    output = shlex.quote(os.path.abspath(arguments.output))
    if arguments.to == BACK:
        flag = "reward_model_name_or_path" if kind == REWARD_KIND else "policy_model_name_or_path"
        adapter = "" if kind == REWARD_KIND else f"/{conversion.plan.names[POLICY]}"
        return f"the original's training programs take it as --{flag} {output}{adapter}"
    if kind == BASE_KIND:
        return f"BASE_MODEL={output} bash scripts/7b-v1.5-224/initialize_policy_model.sh"
    base = shlex.quote(arguments.base_model)
    if kind == REWARD_KIND:
        return f"REWARD_MODEL={output} REWARD_BASE_MODEL={base} bash scripts/7b-v1.5-224/train_rl_model.sh"
    return f"python -m llava_rlhf.export_policy --base_model_name {base} --adapter {output} --output_dir DIR"


if __name__ == "__main__":
    run_program(prepare, run)
