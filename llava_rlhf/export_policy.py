"""Turn a policy adapter into a plain Hugging Face model directory, or into a PEFT folder that serving engines load.

    python -m llava_rlhf.export_policy --base_model_name checkpoints/llava-7b-v1.5-224-sft --adapter runs/rl_model \\
        --output_dir runs/rl_model/merged
"""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from data_utils.conversation import VERSIONS
from llava_rlhf.hub.places import base_name
from llava_rlhf.hub.uploads import check_upload, upload_folder
from llava_rlhf.runs.checkpoints import new_folder
from llava_rlhf.runs.output_place import check_output
from llava_rlhf.runs.parsing import StrictParser, run_program
from llava_rlhf.runs.role_files import find_policy_adapter
from models.adapter_files import (
    ADAPTER_WEIGHTS,
    check_adapter_fits,
    read_adapter_config,
    read_adapter_tensors,
    save_adapter,
)
from models.adapter_names import on_language_model
from models.adapter_shapes import read_layer_sizes
from models.base_check import check_base
from models.base_files import read_family
from models.base_weights import weight_files
from models.settings import DTYPE_NAMES

if TYPE_CHECKING:
    import torch

    from data_utils.items import PromptItem
    from llava_rlhf.exporting.trained import Trained

AS_STORED = "auto"
DEQUANTIZED = "dequantized_base"  # beside the merged model while it is being made


@dataclass
class ExportArguments:
    """What to export, and where to."""

    _argument_group_name = "export"

    base_model_name: str = field(metadata={"help": "The base that the adapter was trained on."})
    adapter: str = field(metadata={"help": "Policy run folder, checkpoint or PEFT folder, or its hub id."})
    output_dir: str = field(metadata={"help": "New directory; must not exist."})
    dtype: str = field(
        default=AS_STORED,
        metadata={
            "help": "Number format of the weights; auto: as they are stored.",
            "choices": [AS_STORED, *DTYPE_NAMES],
        },
    )
    adapter_only: bool = field(
        default=False, metadata={"help": "Write the adapter alone, as PEFT and vLLM load it."}
    )
    dequantize: bool = field(
        default=False,
        metadata={"help": "Accept a base stored in 4 or 8 bits: its rounded weights are merged into."},
    )
    check_rows: int = field(
        default=8,
        metadata={
            "help": "Prompts on which merged model and adapter are compared; 0: no comparison, and none with plain "
            "transformers."
        },
    )
    check_prompts: str | None = field(
        default=None, metadata={"help": "Prompt file for the comparison; default: three built-in prompts."}
    )
    image_folder: str | None = field(default=None, metadata={"help": "Images of --check_prompts."})
    version: str | None = field(
        default=None,
        metadata={
            "help": "Conversation template of training, where the adapter has no record of it; default: v1.",
            "choices": sorted(VERSIONS),
        },
    )
    image_aspect_ratio: Literal["pad", "square"] | None = field(
        default=None,
        metadata={
            "help": "LLaVA: how training made pictures square, where the adapter has no record of it; default: pad."
        },
    )
    min_pixels: int | None = field(
        default=None,
        metadata={
            "help": "Qwen: smallest size of a picture in training, where the adapter has no record of it."
        },
    )
    max_pixels: int | None = field(default=None, metadata={"help": "The same of the largest."})
    results_file: str | None = field(
        default=None, metadata={"help": "Markdown table of results to put into the model card."}
    )
    push_to_hub: str | None = field(
        default=None,
        metadata={"help": "owner/name on the Hugging Face Hub, where the finished folder is sent besides."},
    )
    private: bool = field(default=False, metadata={"help": "With --push_to_hub: only you see it there."})

    def __post_init__(self):
        if self.check_rows < 0:
            raise ValueError(f"--check_rows {self.check_rows}: must be at least 0")
        if self.results_file is not None and not Path(self.results_file).is_file():
            raise ValueError(f"--results_file {self.results_file}: no such file")
        if self.private and self.push_to_hub is None:
            raise ValueError("--private needs --push_to_hub owner/name")

    @property
    def shown_base(self) -> str:
        """The base as other people may read it: by its id; what goes public names no folder of this machine."""
        name = base_name(self.base_model_name)
        return name if self.push_to_hub is None or name != self.base_model_name else Path(name).resolve().name


@dataclass(frozen=True)
class Export:
    """A checked export: the adapter's folder, the prompts of the comparison, and how training asked the policy."""

    arguments: ExportArguments
    adapter: Path
    prompts: "list[PromptItem]"
    trained: "Trained"

    @property
    def dtype(self) -> "torch.dtype | None":
        """Of the written weights; None: as stored."""
        from models.vlm import DTYPES

        return DTYPES.get(self.arguments.dtype)


def prepare(argv: Sequence[str]) -> Export:
    """Parse and check paths, adapter, prompts and room on the disk. Raises ValueError when they do not fit."""
    (arguments,) = StrictParser((ExportArguments,), description=__doc__).parse(argv)
    print(f"loading what is needed to export {arguments.adapter} …", flush=True)
    if arguments.push_to_hub is not None:
        check_upload(f"--push_to_hub {arguments.push_to_hub}", arguments.push_to_hub, arguments.private)
    from llava_rlhf.assembly.conversations import check_conversation
    from llava_rlhf.assembly.roles import load_text_side
    from llava_rlhf.exporting.merging import check_plain, is_quantized
    from llava_rlhf.exporting.model_card import Origin
    from llava_rlhf.exporting.parity import read_check_prompts
    from llava_rlhf.exporting.trained import read_trained

    base = arguments.base_model_name
    check_base(base)
    adapter = find_policy_adapter(arguments.adapter)
    check_adapter_fits(adapter, base)
    trained = read_trained(
        Origin.of(adapter).arguments,
        Path(base),
        arguments.version,
        arguments.image_aspect_ratio,
        arguments.min_pixels,
        arguments.max_pixels,
    )
    if not read_family(base).squares_pictures:  # its own chat template goes along
        text = load_text_side(base, trained.image_choices, trained.version, trained.system_message)
        check_conversation(base, text.tokenizer, text.template)
    if arguments.adapter_only:
        check_output(Path(arguments.output_dir), (adapter / ADAPTER_WEIGHTS).stat().st_size, "--output_dir")
        return Export(arguments, adapter, [], trained)
    check_plain(adapter)
    quantized = is_quantized(base)
    if quantized and not arguments.dequantize:
        raise ValueError(
            f"{base} is stored quantised (quantization_config in its config.json); name the full-precision base that it "
            "was made from, or merge into its rounded weights with --dequantize True"
        )
    if arguments.dequantize and not quantized:
        raise ValueError(f"--dequantize True: {base} is not quantised; leave the flag out")
    size = sum(file.stat().st_size for file in weight_files(Path(base)))
    # Four bits grow eightfold in float32, and the unpacked base lies beside the result for a while.
    check_output(Path(arguments.output_dir), 16 * size if quantized else size, "--output_dir")
    prompts = []
    if arguments.check_rows:
        prompts = read_check_prompts(
            arguments.check_prompts, arguments.image_folder, base, arguments.check_rows, trained
        )
    return Export(arguments, adapter, prompts, trained)


def run(prepared: Export) -> None:
    """Write the folder, whole or not at all; then send it, if that is asked for."""
    from llava_rlhf.exporting.model_card import Origin, write_card

    target = Path(prepared.arguments.output_dir)
    with new_folder(target) as folder:
        if prepared.arguments.adapter_only:
            parity = None
            _write_adapter(prepared, folder)
        else:
            parity = _write_model(prepared, folder)
        results = prepared.arguments.results_file
        write_card(
            folder,
            prepared.arguments.shown_base,
            Origin.of(prepared.adapter),
            prepared.trained,
            read_family(prepared.arguments.base_model_name),
            prepared.arguments.adapter_only,
            parity,
            Path(results).read_text(encoding="utf-8").strip() if results else None,
            prepared.arguments.push_to_hub,
        )
    print(f"wrote {target}")
    if prepared.arguments.push_to_hub is not None:
        _send(target, prepared.arguments)


def _send(folder: Path, arguments: ExportArguments) -> None:
    """Send the finished folder to the Hub. Raises SystemExit where that does not take it."""
    print(f"sent it to {upload_folder(folder, arguments.push_to_hub, arguments.private)}")
    if "/" not in arguments.shown_base:
        print(
            f"its card calls the base {arguments.shown_base}, after its folder: nobody else can load that; with the id of "
            "the base (--base_model_name owner/name) the card names it"
        )


def _write_adapter(prepared: Export, folder: Path) -> None:
    from llava_rlhf.exporting.plain_answers import Questions
    from llava_rlhf.exporting.trained import write_plain_files

    state = read_adapter_tensors(prepared.adapter)
    if prepared.dtype is not None:
        state = {name: tensor.to(prepared.dtype) for name, tensor in state.items()}
    base = Path(prepared.arguments.base_model_name)
    sizes = read_layer_sizes(base)
    config = on_language_model(
        read_adapter_config(prepared.adapter), sizes.layers, sizes.widths, sizes.family
    )
    save_adapter(state, config, folder, prepared.arguments.shown_base)
    # Beside the adapter too: those of the base may crop where training padded, or say nothing of our template.
    write_plain_files(folder, base, prepared.trained)
    if prepared.arguments.check_rows:
        Questions.on_all_pictures(folder, base, prepared.trained)


def _write_model(prepared: Export, folder: Path) -> str | None:
    import torch

    from llava_rlhf.exporting.merging import dequantize, merge_files
    from llava_rlhf.exporting.parity import measure_parity
    from llava_rlhf.exporting.plain_answers import Questions
    from llava_rlhf.exporting.trained import write_plain_files

    base = Path(prepared.arguments.base_model_name)
    if prepared.arguments.dequantize:
        unpacked = folder / DEQUANTIZED
        unpacked.mkdir()
        dequantize(base, unpacked, prepared.dtype or torch.float32)
        base = unpacked
    merge_files(base, prepared.adapter, folder, prepared.dtype)
    write_plain_files(folder, base, prepared.trained)
    parity = None
    if prepared.prompts:
        dtype = prepared.dtype or _stored_dtype(folder)
        questions = Questions.on_all_pictures(folder, base, prepared.trained)
        parity = str(measure_parity(base, prepared.adapter, folder, prepared.prompts, dtype, questions))
        print(f"merged model against base + adapter: {parity}")
    if prepared.arguments.dequantize:
        shutil.rmtree(folder / DEQUANTIZED)
    return parity


def _stored_dtype(folder: Path) -> "torch.dtype":
    """The number format in which plain transformers loads a model directory."""
    import torch
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, trust_remote_code=False).dtype or torch.float32


if __name__ == "__main__":
    run_program(prepare, run)
