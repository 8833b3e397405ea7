"""Chat templates that can't be taken apart, and system messages without a place, are refused with the reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.errors.documented import documented
from tests.support.tiny_families.qwen import save_tiny_qwen25

QWEN = {"version": "chat", "query_len": 300, "response_len": 60, "model_max_length": 900}


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def template(was: str, becomes: str) -> Callable[[Path], None]:
    """What changes words of a base's chat template."""

    def change(base: Path) -> None:
        file = base / "chat_template.jinja"
        assert was in file.read_text()
        file.write_text(file.read_text().replace(was, becomes))

    return change


# case → what becomes of a copy of the base, flags
CASES = {
    "chat-template-none": (lambda base: (base / "chat_template.jinja").unlink(), QWEN),
    "chat-template-broken": (template("{% endfor %}", ""), QWEN),
    "chat-template-rewrites": (
        template("<|im_end|>\n{% endfor %}", "{{ 'so' if loop.last }}<|im_end|>\n{% endfor %}"),
        QWEN,
    ),
    "chat-template-no-stop": (template("<|im_end|>\n{% endfor %}", "\n{% endfor %}"), QWEN),
    "chat-template-pictures": (
        template("in message.content %}", "in message.content | reverse %}"),
        QWEN,
    ),
    "system-message-v1": (lambda base: None, {"system_message": "Be brief.", "version": "v1"}),
    "system-message-no-place": (
        template("for message in messages", "for message in messages if message.role != 'system'"),
        QWEN | {"system_message": "Be brief."},
    ),
    "generation-stops": (
        lambda base: edit(base / "generation_config.json", eos_token_id=["</s>"]),
        QWEN,
    ),
}


@pytest.fixture(scope="module")
def qwen(tmp_path_factory) -> Path:
    return save_tiny_qwen25(tmp_path_factory.mktemp("qwen") / "base")


@pytest.mark.parametrize("case", CASES)
def test_documented(case, qwen, prepare, tmp_path):
    row, (damage, flags) = documented(__file__, case), CASES[case]
    base = shutil.copytree(qwen, tmp_path / "copied" / "base")
    damage(base)
    with pytest.raises(ValueError, match=row.pattern):
        prepare("policy", model_name_or_path=base, **flags)
    assert row.skipped == "–" and not (tmp_path / "run").exists()
