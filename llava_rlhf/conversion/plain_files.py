"""What plain transformers reads besides the weights, such that it gives our ids, our pixels and our answers.

Processor with its chat template, tokenizer, generation configuration: of a converted base, an export, the tiny base.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, processors
from transformers import (
    CLIPImageProcessorPil,
    GenerationConfig,
    LlavaConfig,
    LlavaImageProcessorPil,
    LlavaProcessor,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from data_utils.conversation import ConversationTemplate
from data_utils.images import ASPECT_RATIOS
from data_utils.schema import IMAGE_MARKER

# Of other ages of transformers, and read by some programs before those that are written here.
OTHER_FILES = (
    "preprocessor_config.json",
    "chat_template.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
)

# Messages as `apply_chat_template` takes them. The first user message carries the system text; a message's images stand
# in front of its text, which is then stripped; a space separates the parts of a turn, and nothing follows the stop.
# No begin-of-text token: the tokenizer's post-processor puts it in front of a text that the processor takes, whether in
# one step with rendering or later. Written here, it would be there twice in the latter case.
_CHAT_TEMPLATE = """
{{- SYSTEM -}}
{%- for message in messages -%}
  {%- if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') -%}
    {{- raise_exception('roles must alternate user, assistant, user, ...') -}}
  {%- endif -%}
  {%- set found = namespace(images=0, text='') -%}
  {%- if message['content'] is string -%}
    {%- set found.text = message['content'] -%}
  {%- else -%}
    {%- for part in message['content'] -%}
      {%- if part['type'] == 'image' -%}
        {%- set found.images = found.images + 1 -%}
      {%- else -%}
        {%- set found.text = found.text + part['text'] -%}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {%- if message['role'] == 'assistant' -%}
    {{- SEPARATOR + ASSISTANT + ': ' + found.text + STOP -}}
  {%- else -%}
    {%- set lines = [IMAGE] * found.images -%}
    {%- set text = found.text | trim if found.images else found.text -%}
    {{- USER + ': ' + (lines + [text] if text or not lines else lines) | join('\\n') -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- SEPARATOR + ASSISTANT + ':' -}}
{%- endif -%}
"""


def chat_template(template: ConversationTemplate) -> str:
    """A conversation template in Jinja. The begin-of-text token is not in it: the tokenizer puts it in front.

    Raises ValueError for one with tokens of its own, which is a base's own template.
    """
    if not isinstance(template, ConversationTemplate):
        raise ValueError(f"the template {template.name} can't be written for plain transformers yet")
    opening = f"{template.system}{template.separator}" if template.system else ""
    values = {
        "SYSTEM": opening,
        "SEPARATOR": template.separator,
        "USER": template.user_role,
        "ASSISTANT": template.assistant_role,
        "STOP": template.stop,
        "IMAGE": IMAGE_MARKER,
    }
    lines = [f"{{%- set {name} = {json.dumps(value)} -%}}" for name, value in values.items()]
    return "\n".join(lines) + _CHAT_TEMPLATE


def plain_image_processor(images: CLIPImageProcessorPil, image_aspect_ratio: str) -> LlavaImageProcessorPil:
    """One that makes of an upright RGB picture what `ImagePipeline` makes of its file, bit for bit.

    Padding comes with no conversion of colours: transformers paints white whatever has the colour that a GIF or a PNG
    calls transparent, also after `convert("RGB")`. A picture that is not RGB is then an error. Where torchvision is installed, `AutoProcessor` takes that to
    resize: single pixels are off by one of 255 steps.

    Args:
        images: the base's, as our programs read it.
        image_aspect_ratio: `pad` or `square`, as in training.
    """
    if image_aspect_ratio not in ASPECT_RATIOS:
        raise ValueError(f"image_aspect_ratio {image_aspect_ratio!r}: must be one of {ASPECT_RATIOS}")
    settings = {k: v for k, v in images.to_dict().items() if k != "image_processor_type"}
    if image_aspect_ratio == "pad":
        settings |= {"do_pad": True, "do_convert_rgb": False}
    return LlavaImageProcessorPil(**settings)


def plain_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerFast:
    """The same ids, with a begin-of-text in front, and padding on the left: `unk` where none is named."""
    begin = tokenizer.bos_token
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A",
        pair=f"{begin} $A {begin} $B",
        special_tokens=[(begin, tokenizer.bos_token_id)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=begin,
        eos_token=tokenizer.eos_token,
        unk_token=tokenizer.unk_token,
        pad_token=tokenizer.pad_token or tokenizer.unk_token,
        padding_side="left",  # a batch of prompts is answered at its right edge
        clean_up_tokenization_spaces=False,
    )


def plain_processor(
    images: CLIPImageProcessorPil,
    tokenizer: PreTrainedTokenizerFast,
    config: LlavaConfig,
    template: ConversationTemplate,
    image_aspect_ratio: str,
) -> LlavaProcessor:
    """Pictures and messages → inputs of the model, as in training.

    Args:
        images: the base's image processor, as our programs read it.
        tokenizer: of `plain_tokenizer`.
        config: of the model.
        template: that the model was trained with.
        image_aspect_ratio: the same.
    """
    return LlavaProcessor(
        image_processor=plain_image_processor(images, image_aspect_ratio),
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        chat_template=chat_template(template),
        image_token=tokenizer.convert_ids_to_tokens(config.image_token_id),
        num_additional_image_tokens=1,  # the class token
    )


def plain_generation_config(tokenizer: PreTrainedTokenizerBase, config: LlavaConfig) -> GenerationConfig:
    """Stops where our sampling does, and never draws the image token and rows that stand for no token; greedy."""
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=sorted(
            {config.image_token_id, *range(len(tokenizer), config.text_config.vocab_size)}
        ),
    )


def save_plain_files(folder: Path, processor: LlavaProcessor, generation: GenerationConfig) -> None:
    """Write both to a model's or adapter's folder, and take away files that say the same of another model."""
    for name in OTHER_FILES:
        (folder / name).unlink(missing_ok=True)
    processor.save_pretrained(folder)
    generation.save_pretrained(folder)
