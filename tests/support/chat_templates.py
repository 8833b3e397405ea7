"""What published models write of a conversation, and tokenizers that read it as theirs do.

The templates are written anew, shorter: of messages of parts they make what the published ones make.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from data_utils.conversation import TEMPLATES
from llava_rlhf.conversion.plain_files import chat_template
from tests.support.tiny_families.common import SPOKEN, byte_tokenizer
from tests.support.tiny_families.gemma3 import GEMMA_CHAT, gemma_tokenizer
from tests.support.tiny_families.llava_next import CHAT as NEXT_CHAT
from tests.support.tiny_families.qwen import QWEN3_CHAT, QWEN_CHAT, QWEN_CONTROL

INTERN_CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>")
SMOL_CONTROL = (
    *("<|im_start|>", "<end_of_utterance>", "<|im_end|>", "<image>"),
    *("<fake_token_around_image>", "<global-img>"),
)
LLAMA_CONTROL = ("<unk>", "<s>", "</s>", "<image>")
_TEXTS = "{% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %}"
# Every picture in front of all text, whatever the order of the parts.
_PICTURES = "{% for p in m.content if p.type == 'image' %}<image>\n{% endfor %}"
INTERN_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for p in m.content %}"
    "{% if p.type == 'image' %}<IMG_CONTEXT>\n{{ '' }}{% else %}{{ p.text }}{% endif %}{% endfor %}<|im_end|>\n{{ '' }}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{{ '' }}{% endif %}"
)
SMOL_CHAT = (
    "<|im_start|>{% for m in messages %}{{ m.role | capitalize }}:{{ '' if m.content[0].type == 'image' else ' ' }}"
    "{% for p in m.content %}{% if p.type == 'image' %}<image>{% else %}{{ p.text }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{{ '' }}{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
# LLaVA-NeXT on Mistral, before it was corrected: it ended an answer with what is no token.
MISTRAL_CHAT_AT_FIRST = NEXT_CHAT.replace("</s>", r"<\s>")
# LLaVA 1.5 in Hugging Face format: no system text, a space behind every text, no stop.
LLAVA_CHAT = (
    "{% for m in messages %}{% if m.role != 'system' %}{{ m.role | upper }}: {% endif %}"
    f"{_PICTURES}"
    "{% for p in m.content if p.type == 'text' %}{{ p.text }} {% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


@dataclass(frozen=True)
class FewWords:
    """What `read_pieces` asks of a family: what stands for a picture.

    Attributes:
        image_token_id: of each of its positions.
        before, after: marks around them.
        beside_pictures: as in a family.
    """

    image_token_id: int
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    beside_pictures: str = ""

    def placeholder(self, grid: tuple[int, ...]) -> list[int]:
        return [*self.before, *[self.image_token_id] * 3, *self.after]

    def blank(self) -> tuple[None, tuple[tuple[int, ...], ...]]:
        return None, ((),)


@dataclass(frozen=True)
class Published:
    """A template as published, and how its tokenizer reads.

    Attributes:
        source: the template.
        tokenizer: made small.
        image: the token of a picture's positions.
        mark: what the template writes for one.
        around: tokens that stand before and behind the positions.
        beside: text that the processor writes on both sides of a mark.
    """

    source: str
    tokenizer: Callable[[], PreTrainedTokenizerFast]
    image: str
    mark: str
    around: tuple[str, str] | None = None
    beside: str = ""

    def family(self, tokenizer: PreTrainedTokenizerFast) -> FewWords:
        """The part of its family that is asked."""
        image, *around = tokenizer.convert_tokens_to_ids([self.image, *(self.around or ())])
        before, after = ((mark,) for mark in around) if around else ((), ())
        return FewWords(image, before, after, self.beside)

    def written(self, text: str) -> str:
        """What the processor makes of the template's text, one token a picture."""
        return text.replace(self.mark, f"{self.beside}{self.image}{self.beside}")


def _of_whole_texts(
    control: Sequence[str], normalizer: normalizers.Normalizer | None, splitter: pre_tokenizers.PreTokenizer
) -> PreTrainedTokenizerFast:
    """BPE in which a space is a letter, others are written as bytes, and a begin-of-text token stands in front."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    # No piece reaches over a space, as in theirs.
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=[*control, *(f"<0x{byte:02X}>" for byte in range(256))],
        initial_alphabet=[*"\n?.<>"],
        show_progress=False,
    )
    lines = ["\n\n\n\n", "model\n\n", "user\n\n\n"]
    backend.train_from_iterator([SPOKEN * 3, *lines * 9], trainer)
    backend.normalizer = normalizer or normalizers.Sequence([])
    backend.pre_tokenizer = splitter
    bos = control[1]
    backend.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 1)])
    spec = json.loads(backend.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] in control]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(spec)),
        **dict(zip(("unk_token", "bos_token", "eos_token"), control[:3], strict=True)),
        pad_token=control[0],
        clean_up_tokenization_spaces=False,
    )


def mistral_tokenizer() -> PreTrainedTokenizerFast:
    """A space is put in front of every text between two tokens, as by old files of Llama and Mistral."""
    front = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    never = pre_tokenizers.Split("\0", "isolated")
    return _of_whole_texts(LLAMA_CONTROL, front, never)


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """A space is put in front of a whole text only, as by newer files."""
    return _of_whole_texts(LLAMA_CONTROL, None, pre_tokenizers.Metaspace("▁", "first", split=False))


def smol_tokenizer() -> PreTrainedTokenizerFast:
    """Whose begin-of-text token is the one that the template writes."""
    tokenizer = byte_tokenizer(SMOL_CONTROL, "<end_of_utterance>", "<|im_end|>")
    tokenizer.bos_token = "<|im_start|>"
    return tokenizer


def _chatml(control: Sequence[str]) -> Callable[[], PreTrainedTokenizerFast]:
    return lambda: byte_tokenizer(control, "<|im_end|>", "<|endoftext|>")


_VISION = ("<|vision_start|>", "<|vision_end|>")
_QWEN_IMAGE = ("<|image_pad|>", "<|vision_start|><|image_pad|><|vision_end|>", _VISION)
PUBLISHED = {
    "qwen2_5_vl": Published(QWEN_CHAT, _chatml(QWEN_CONTROL), *_QWEN_IMAGE),
    "qwen3_vl": Published(QWEN3_CHAT, _chatml(QWEN_CONTROL), *_QWEN_IMAGE),
    "gemma3": Published(
        GEMMA_CHAT,
        gemma_tokenizer,
        *("<image_soft_token>", "<start_of_image>", ("<start_of_image>", "<end_of_image>"), "\n\n"),
    ),
    "internvl3": Published(
        INTERN_CHAT, _chatml(INTERN_CONTROL), "<IMG_CONTEXT>", "<IMG_CONTEXT>", ("<img>", "</img>")
    ),
    "smolvlm": Published(
        SMOL_CHAT, smol_tokenizer, "<image>", "<image>", ("<fake_token_around_image>", "<global-img>")
    ),
    "llava_next_mistral": Published(NEXT_CHAT, mistral_tokenizer, "<image>", "<image>"),
    "llava_as_exported": Published(chat_template(TEMPLATES["v1"]), llama_tokenizer, "<image>", "<image>"),
}


def write_template(folder: Path, source: str) -> Path:
    """A folder with this chat template and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "chat_template.jinja").write_text(source, encoding="utf-8")
    return folder
