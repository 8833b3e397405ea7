"""Does a conversation template fit a base: its stop must end answers, its words should be the ones the base knows."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from data_utils.conversation import ChatTemplate, Template, dialogue_segments, query_segments
from data_utils.schema import IMAGE_MARKER, Turn
from models.base_files import read_family

QUESTION = "What is in the picture?"
ANSWER = "A cat."
FITTING = "only LLaVAs on Vicuna-1.5 fit `v1`, Qwen2.5-VLs `qwen2_5_vl` and Qwen3-VLs `qwen3_vl`, and there is no template for others here"
_SHOWN = 160  # characters of a prompt in a warning

logger = logging.getLogger(__name__)


def check_conversation(base: str | Path, tokenizer: PreTrainedTokenizerBase, template: Template) -> None:
    """Warn where the base's own chat template asks otherwise than `template`; answers may be nonsense without any error.

    Args:
        base: the base's folder, which may hold a chat template.
        tokenizer: of the base.
        template: how dialogues will be written.

    Raises:
        ValueError: the template's stop is not the token at which sampling ends.
    """
    check_stop(base, tokenizer, template)
    theirs = read_chat_template(base)
    if theirs is None:
        return
    if isinstance(template, ChatTemplate):
        _check_chat_template(base, tokenizer, template, theirs)
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
            *(base, template.name, FITTING, _shown(prompt), template.name, _shown(ours)),
        )


def _check_chat_template(
    base: str | Path, tokenizer: PreTrainedTokenizerBase, template: ChatTemplate, theirs: str
) -> None:
    """Refuse a template that writes a dialogue otherwise than the base's own, by probes of one and two questions."""
    family = read_family(base)
    image = "".join(tokenizer.convert_ids_to_tokens(list(family.placeholder(family.blank()[1][0]))))
    for counts in ((0,), (1,), (2,), (0, 1), (1, 0), (2, 1)):
        turns, messages = [], []
        for count in counts:
            parts = [{"type": "image"}] * count + [{"type": "text", "text": QUESTION}]
            turns += [Turn("human", f"{IMAGE_MARKER}\n" * count + QUESTION), Turn("gpt", ANSWER)]
            messages += [
                {"role": "user", "content": parts},
                {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]},
            ]
        for asks in (False, True):  # a whole dialogue, and one that waits for an answer
            end = -1 if asks else None
            segments = (query_segments if asks else dialogue_segments)(template, turns[:end], sum(counts))
            ours = "".join(image if segment.kind == "image" else segment.text for segment in segments)
            written = tokenizer.apply_chat_template(
                messages[:end], chat_template=theirs, tokenize=False, add_generation_prompt=asks
            )
            if written != ours and (asks or written.rstrip() != ours):
                raise ValueError(
                    f"--version {template.name} writes another conversation than the chat template of {base}: "
                    f"{_shown(ours)}, not {_shown(written)}; name a base with that template"
                )


def check_stop(base: str | Path, tokenizer: PreTrainedTokenizerBase, template: Template) -> None:
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


def render_template(template: Template) -> str:
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


def read_chat_template(base: str | Path) -> str | None:
    """The chat template of a base, from the files in which Hugging Face has kept it, the newest first; None: it has none."""
    file = Path(base) / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8", errors="replace")
    return next(_templates_in_json(Path(base)), None)


def _templates_in_json(base: Path) -> Iterator[str]:
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        try:
            found = json.loads((base / name).read_text(encoding="utf-8")).get("chat_template")
        except (OSError, ValueError, AttributeError):
            continue  # whoever needs the file says what is wrong with it
        if isinstance(found, list):  # of several, by name
            named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
            found = named.get("default")
        if isinstance(found, str) and found.strip():
            yield found


def _ask_alike(ours: str, theirs: str) -> bool:
    """Whether the roles and their order are the same; begin-of-text, system text and white space may differ."""
    return _plain(theirs).endswith(_plain(ours))


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"…{text[-_SHOWN:]}")
