"""An original LLaVA model directory → a Hugging Face LLaVA directory.

`plan_base` reads configurations, tokenizer and the names and shapes of all weights, and refuses what cannot be
converted; `BaseConversion.write` then copies the weights. Number formats stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import GenerationConfig, LlavaConfig, LlavaProcessor

from data_utils.conversation import TEMPLATES
from data_utils.image_choices import ImageChoices
from data_utils.schema import IMAGE_MARKER
from llava_rlhf.assembly.roles import load_text_side
from llava_rlhf.conversion.original_config import (
    find_tower,
    llava_config,
    read_original_config,
    read_vision_config,
)
from llava_rlhf.conversion.original_files import refuse_two_formats
from llava_rlhf.conversion.plain_files import plain_generation_config, plain_processor, save_plain_files
from llava_rlhf.conversion.plain_inputs import questions_on_all_pictures
from llava_rlhf.conversion.processor_files import build_image_processor, build_tokenizer
from llava_rlhf.conversion.safetensors_shards import MAX_SHARD_BYTES, write_shards
from llava_rlhf.conversion.weight_plan import TOWER, TargetWeight, plan_weights
from llava_rlhf.runs.checkpoints import new_folder
from llava_rlhf.runs.output_place import check_output

VERSION = "v1"  # the conversation template that original models were trained with


@dataclass(frozen=True)
class BaseConversion:
    """A checked conversion that only has to be carried out.

    Attributes:
        source: the original model directory.
        vision_tower: the CLIP directory that its tower comes from.
        config, generation_config, processor: of the converted model.
        weights: what is written, in this order.
        image_aspect_ratio: how pictures are made square.
    """

    source: Path
    vision_tower: Path
    config: LlavaConfig
    generation_config: GenerationConfig
    processor: LlavaProcessor
    weights: tuple[TargetWeight, ...]
    image_aspect_ratio: str

    @property
    def nbytes(self) -> int:
        """Bytes of all weights of the converted model."""
        return sum(weight.nbytes for weight in self.weights)

    @property
    def tower_line(self) -> str:
        """Which tower the converted model has, for the user."""
        size = self.config.vision_config.image_size
        line = f"vision tower: {self.vision_tower} ({size} x {size} pixels)"
        if any(w.stored is not None and w.stored.name.startswith(TOWER) for w in self.weights):
            line += f"; its weights are those that {self.source} holds itself, not those of that directory"
        return line

    def write(self, output: Path, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
        """Write the Hugging Face directory, whole or not at all; each weight is read once and written once.

        Raises ValueError when `output` exists, or can't be written; RuntimeError when plain transformers would make other
        ids or pixels of a question than our programs do.
        """
        check_output(output, self.nbytes)
        output.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(output) as staged:
            write_shards(self.weights, staged, max_shard_bytes)
            self.config.save_pretrained(staged)
            save_plain_files(staged, self.processor, self.generation_config)
            text = load_text_side(staged, ImageChoices(self.image_aspect_ratio), VERSION)
            rows = self.config.text_config.vocab_size
            questions_on_all_pictures(text, text.template, staged, rows)


def plan_base(source: Path, vision_tower: Path | None) -> BaseConversion:
    """Check an original model and its tower, reading no weights.

    Args:
        source: directory of the original model.
        vision_tower: directory of its CLIP tower; None: where `mm_vision_tower` of its `config.json` points, from here
            or from the folder that holds `source`.

    Raises:
        ValueError: something about it cannot be converted, is missing or does not fit; the message says what.
    """
    original = read_original_config(source)
    refuse_two_formats(source)
    tower = find_tower(original, vision_tower)
    vision = read_vision_config(tower, original)
    tokenizer = build_tokenizer(source)
    vocab_size = original.fields["vocab_size"]
    image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_MARKER)
    if image_token_id > vocab_size:
        raise ValueError(
            f"{original.file}: vocab_size {vocab_size}, but the tokenizer of {source} has {image_token_id} tokens"
        )
    special_ids = {
        name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    config = llava_config(original, vision, special_ids, image_token_id)
    weights = plan_weights(config, original.projector_type, vocab_size, source, tower)
    config.dtype = next(w.dtype for w in weights if w.name.endswith("lm_head.weight"))
    images = build_image_processor(tower, vision)
    aspect = original.fields.get("image_aspect_ratio") or "pad"  # as our programs, where nothing is told
    return BaseConversion(
        source=source,
        vision_tower=tower,
        config=config,
        generation_config=plain_generation_config(tokenizer, config),
        processor=plain_processor(images, tokenizer, config, TEMPLATES[VERSION], aspect),
        weights=tuple(weights),
        image_aspect_ratio=aspect,
    )
