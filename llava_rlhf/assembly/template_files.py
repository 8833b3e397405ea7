"""Where a base keeps its chat template, and which tokens end its answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from data_utils.conversation import ChatTemplate, Template

PLACES = ("chat_template.jinja", "chat_template.json", "processor_config.json", "tokenizer_config.json")
GENERATION = "generation_config.json"
_SHOWN = 160  # characters of a prompt in a message


def read_chat_template(base: str | Path) -> str | None:
    """The chat template of a base, from the files in which Hugging Face has kept it, the newest first; None: it has none."""
    file = Path(base) / PLACES[0]
    if file.is_file():
        return file.read_text(encoding="utf-8", errors="replace")
    return next(_templates_in_json(Path(base)), None)


def _templates_in_json(base: Path) -> Iterator[str]:
    for name in PLACES[1:]:
        try:
            found = json.loads((base / name).read_text(encoding="utf-8")).get("chat_template")
        except (OSError, ValueError, AttributeError):
            continue  # whoever needs the file says what is wrong with it
        if isinstance(found, list):  # of several, by name
            named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
            found = named.get("default")
        if isinstance(found, str) and found.strip():
            yield found


def stop_ids(base: str | Path, tokenizer: PreTrainedTokenizerBase, template: Template) -> tuple[int, ...]:
    """Tokens that end an answer: the tokenizer's; of a base's own template also its stop, and those that the base samples to.

    Raises ValueError when `generation_config.json` says what is no token.
    """
    if not isinstance(template, ChatTemplate):
        return (tokenizer.eos_token_id,)
    stop, told = tokenizer.convert_tokens_to_ids(template.stop), _stops_of_generation(Path(base) / GENERATION)
    return tuple(dict.fromkeys((stop, tokenizer.eos_token_id, *told)))


def _stops_of_generation(file: Path) -> list[int]:
    if not file.is_file():
        return []
    try:
        told = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{file} is no JSON object ({error}); fetch the base again") from error
    found = told if isinstance(told, list) else [] if told is None else [told]
    if not all(type(index) is int and index >= 0 for index in found):
        raise ValueError(
            f"{file}: eos_token_id is {told!r}, must be a token's number or a list of them; correct it"
        )
    return found


def shown(text: str) -> str:
    """A prompt as messages show it."""
    return repr(text if len(text) <= _SHOWN else f"…{text[-_SHOWN:]}")
