"""A base's own chat template against `--version`: what is refused, what is warned of, and what fits without a word."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest

from data_utils.conversation import TEMPLATES, ConversationTemplate
from llava_rlhf import answer_prompts
from llava_rlhf.assembly.conversations import check_conversation, read_chat_template
from llava_rlhf.conversion.plain_files import chat_template
from models.vlm import load_tokenizer
from tests.support.tiny_data import command_line

PLAIN = {name: known for name, known in TEMPLATES.items() if isinstance(known, ConversationTemplate)}
BASE = Path(__file__).resolve().parents[3] / "scripts" / "tiny" / "base"
# Of the released LLaVA 1.5 in Hugging Face format: no system text, a space behind every text, no stop.
RELEASED = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
VICUNA = (
    "{{ bos_token }}{{ 'Some other system text. ' }}{% for m in messages %}{{ m['role'] | upper }}: {{ m['content'] }} "
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]{% endif %}"
    "{% endfor %}"
)
HEADERS = "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] }}{% endfor %}"
TRANSPOSED = "USER: {{ messages[0]['content'][1]['text'] }} <image> ASSISTANT:"


@pytest.fixture
def base(tiny_base, tmp_path):
    return shutil.copytree(tiny_base, tmp_path / "base")


def warnings(base, version, caplog) -> str:
    with caplog.at_level(logging.WARNING):
        check_conversation(base, load_tokenizer(base), TEMPLATES[version])
    return caplog.text


@pytest.mark.parametrize("version", sorted(PLAIN))
@pytest.mark.parametrize(
    "template", [None, RELEASED, VICUNA, *map(chat_template, PLAIN.values())],
    ids=["none", "released", "strings", *PLAIN],
)  # fmt: skip
def test_templates_that_ask_alike_fit_without_a_word(template, version, base, caplog):
    if template is not None:
        (base / "chat_template.jinja").write_text(template)
    assert read_chat_template(base) == template
    assert warnings(base, version, caplog) == ""


def test_the_tiny_worlds_base_fits_without_a_word(caplog):
    assert warnings(BASE, "tiny", caplog) == ""


@pytest.mark.parametrize(
    ("template", "shown"),
    [(INST, r"[INST] <image>"), (HEADERS, "<|start_header_id|>user"), (TRANSPOSED, "<image> ASSISTANT:")],
)
def test_another_prompt_is_warned_of_with_both(template, shown, base, caplog):
    (base / "chat_template.jinja").write_text(template)
    text = warnings(base, "v1", caplog)
    assert "was made for another prompt than --version v1" in text and "Vicuna-1.5" in text
    assert shown in text and "USER: <image>\\nWhat is in the picture? ASSISTANT:" in text


@pytest.mark.parametrize("template", ["{% for", "{{ raise_exception('no') }}", "{{ 1 / 0 }}"])
def test_a_template_that_cannot_be_rendered_is_no_error(template, base, caplog):
    (base / "chat_template.jinja").write_text(template)
    assert "its chat template can't be rendered (" in warnings(base, "v1", caplog)


def test_every_file_that_may_hold_a_template_is_read_the_newest_first(base):
    def put(name, value):
        file = base / name
        content = json.loads(file.read_text()) if file.is_file() else {}
        file.write_text(json.dumps({**content, "chat_template": value}))
        return read_chat_template(base)

    assert put("tokenizer_config.json", [{"name": "default", "template": "a"}]) == "a"
    assert put("tokenizer_config.json", "b") == "b"
    assert put("processor_config.json", "c") == "c"
    assert put("chat_template.json", "d") == "d"
    (base / "chat_template.jinja").write_text("e")
    assert read_chat_template(base) == "e"


def rename_stop(base: Path, eos: str) -> None:
    file = base / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token": eos}))


@pytest.mark.parametrize("missing", [True, False])
def test_a_stop_that_ends_nothing_is_refused_for_answers_too(missing, base, tiny_data, tmp_path):
    rename_stop(base, "<|eot|>" if missing else "<pad>")
    if missing:
        file = base / "tokenizer.json"
        file.write_text(file.read_text().replace('"</s>"', '"<|eot|>"'))
    argv = command_line(
        base_model_name=base,
        dataset_path=tiny_data.prompts,
        image_folder=tiny_data.images,
        output_file=tmp_path / "answers.jsonl",
        version="tiny",
        use_cpu=True,
    )
    what = "which is no token of" if missing else "the tokenizer of .* with '<pad>'"
    with pytest.raises(
        ValueError, match=f"ends an answer with '</s>', {what}.*only LLaVAs on Vicuna-1.5 fit `v1`"
    ):
        answer_prompts.prepare(argv)
