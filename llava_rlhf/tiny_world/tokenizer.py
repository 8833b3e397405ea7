"""The tiny worlds' own tokenizers: one token per word, an object name is one word.

Words carry the space before them (`▁the`), as in the LLaMA tokenizer, so that text -> ids -> text gives back the
spacing. A word that can stand at the start of a line or right after a control token has a second token without it.
"""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from data_utils.shapes_text import LETTERS
from data_utils.shapes_world import NAMES

SPACE = "▁"
CONTROL = ("<unk>", "<s>", "</s>", "<image>")
PUNCTUATION = (".", ",", "?", ":", "\n")
WORDS = (
    # questions and answers
    *(
        "what is in the image describe which object there a no and shows nothing Yes No correct option"
    ).split(),
    *LETTERS,
    *NAMES,
    # the conversation and the reward prompt, with the facts preamble
    *("USER ASSISTANT answer right score Specifically AI's response should be fully supported by").split(),
    *("combination of following captions -").split(),
)
LINE_STARTS = ("USER", "ASSISTANT", "what", "describe", "is", "which")


def vocabulary() -> list[str]:
    """Every token in id order: control tokens, the bare space, punctuation, words with and without a space."""
    return [*CONTROL, SPACE, *PUNCTUATION, *(SPACE + word for word in WORDS), *LINE_STARTS]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer; `<unk>` (id 0) is also the padding token, `<s>` is 1, `</s>` is 2, `<image>` is 3."""
    ids = {token: index for index, token in enumerate(vocabulary())}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always"),
            pre_tokenizers.Split(Regex(r"[.,?:\n]"), behavior="isolated"),
        ]
    )
    backend.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    # As LLaMA's does, so that an exported model sees in plain transformers what it was trained on.
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", ids["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        pad_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


CHAT_CONTROL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|image_pad|>", "<|video_pad|>", "<unk>"),
)
# Of the chat template; "You" opens the system message.
CHAT_WORDS = ("are", "helpful", "assistant")
CHAT_LINE_STARTS = ("system", "user", "assistant", "You", "the", "Yes", "No", *LETTERS, *LINE_STARTS)


def build_chat_tokenizer() -> PreTrainedTokenizerFast:
    """As Qwen's: no begin-of-text, no space in front of a text; `<|im_end|>` ends a turn, `<|endoftext|>` pads."""
    words = (SPACE + word for word in (*WORDS, *CHAT_WORDS))
    tokens = [*CHAT_CONTROL, SPACE, *PUNCTUATION, *words, *CHAT_LINE_STARTS]
    backend = Tokenizer(models.WordLevel({t: index for index, t in enumerate(tokens)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[.,?:\n]"), behavior="isolated"),
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="never"),
        ]
    )
    backend.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="never")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=[token for token in CHAT_CONTROL if token != "<unk>"],
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
