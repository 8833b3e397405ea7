"""Does a conversation template fit a base: its stop must end answers, its words should be the ones the base knows."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from data_utils.conversation import ChatTemplate, ConversationTemplate, Template, query_segments
from data_utils.schema import IMAGE_MARKER, Turn
from llava_rlhf.assembly.template_files import read_chat_template, shown

QUESTION = "What is in the picture?"
FITTING = "only LLaVAs on Vicuna-1.5 fit `v1`; `--version chat` takes the template that a base has itself"

logger = logging.getLogger(__name__)


def check_conversation(base: str | Path, tokenizer: PreTrainedTokenizerBase, template: Template) -> None:
    """Warn where the base's own chat template asks otherwise than `template`; answers may be nonsense without any error.

    Args:
        base: the base's folder, which may hold a chat template.
        tokenizer: of the base.
        template: how dialogues will be written; one that was read from the base is known to fit.

    Raises:
        ValueError: the template's stop is not the token at which sampling ends.
    """
    if isinstance(template, ChatTemplate):
        return
    check_stop(base, tokenizer, template)
    theirs = read_chat_template(base)
    if theirs is None:
        return
    ours = render_template(template)
    try:
        prompt = render_chat_template(tokenizer, theirs)
    except Exception as error:  # a program of its author's: it raises what it likes
        reason = f"{type(error).__name__}: {error}"
        logger.warning(
            "%s: its chat template can't be rendered (%s), so nobody knows whether --version %s is its format",
            *(base, reason, template.name),
        )
        return
    if not _ask_alike(ours.removeprefix(template.system), prompt):
        logger.warning(
            "%s was made for another prompt than --version %s writes, so its answers may be worse than it can give: %s.\n"
            "  its chat template: %s\n  --version %-9s: %s",
            *(base, template.name, FITTING, shown(prompt), template.name, shown(ours)),
        )


def check_stop(base: str | Path, tokenizer: PreTrainedTokenizerBase, template: ConversationTemplate) -> None:
    """Raise ValueError unless the template's stop is the token at which sampling ends."""
    ends = f"template {template.name!r} ends an answer with {template.stop!r}"
    if template.stop not in tokenizer.get_vocab():
        raise ValueError(
            f"{ends}, which is no token of {base} (it ends with {tokenizer.eos_token!r}): no response would ever stop; "
            f"{FITTING}"
        )
    if tokenizer.convert_tokens_to_ids(template.stop) != tokenizer.eos_token_id:
        raise ValueError(
            f"{ends}, the tokenizer of {base} with {tokenizer.eos_token!r}: no response would ever stop; {FITTING}"
        )


def render_template(template: ConversationTemplate) -> str:
    """A question on an image in a template's words, up to where the answer begins."""
    segments = query_segments(template, [Turn("human", f"{IMAGE_MARKER}\n{QUESTION}")], 1)
    return "".join(segment.text for segment in segments)


def render_chat_template(tokenizer: PreTrainedTokenizerBase, chat_template: str) -> str:
    """The same question in a Jinja chat template's words (Hugging Face runs it in a sandbox). Raises what the template raises."""
    parts = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    content: list[Any] = [parts, f"{IMAGE_MARKER}\n{QUESTION}"]

    def render(content: Any) -> str:
        return tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=chat_template,
            tokenize=False,
            add_generation_prompt=True,
        )

    # Templates of text models take one string, and write a list of parts as Python does, or nothing of it.
    return _first_that(render, content, lambda text: QUESTION in text and "'type'" not in text)


def _first_that(render: Callable[[Any], str], contents: list[Any], fits: Callable[[str], bool]) -> str:
    *first, last = contents
    for content in first:
        try:
            text = render(content)
        except Exception:  # as above; the last one's error is told
            continue
        if fits(text):
            return text
    return render(last)


def _ask_alike(ours: str, theirs: str) -> bool:
    """Whether the roles and their order are the same; begin-of-text, system text and white space may differ."""
    return _plain(theirs).endswith(_plain(ours))


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
