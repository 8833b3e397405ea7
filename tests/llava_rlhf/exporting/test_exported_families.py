"""Exports of other families than LLaVA: plain transformers reads them with the base's own files, and answers as we do."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig

from data_utils.image_choices import ImageChoices
from data_utils.images import open_picture
from llava_rlhf import answer_prompts
from llava_rlhf.assembly.roles import load_text_side
from llava_rlhf.conversion.plain_inputs import check_inputs, our_inputs
from models.base_files import read_family
from models.base_fingerprint import base_fingerprint
from tests.llava_rlhf.exporting.exports import Exported, export, write_run
from tests.llava_rlhf.exporting.test_model_card_snippet import printed_program
from tests.support.tiny_data import command_line
from tests.support.tiny_families import OTHERS, TINY_FAMILIES
from tests.support.tiny_families.common import TinyFamily
from tests.support.tiny_families.idefics3 import idefics_processor

QUESTION = "what is in the image?"
LIMITS = {"min_pixels": 5 * 32**2, "max_pixels": 9 * 32**2}  # of every tiny base, the largest is larger


@pytest.fixture(scope="module", params=OTHERS)
def exported(request, tmp_path_factory) -> Exported:
    """A policy of random weights; where the family has limits of a picture's size, trained with some of its own."""
    folder, version = tmp_path_factory.mktemp("exported"), "chat"
    base = request.param.save(folder / "base")
    limits = limits_of(base)
    run = write_run(base, folder / "run", version=version, **limits)
    return Exported(
        request.param.model_type,
        base,
        run,
        export(base, run, folder / "merged"),
        export(base, run, folder / "adapter", adapter_only=True),
    )


def limits_of(base: Path) -> dict[str, int]:
    return LIMITS if read_family(base).pixel_limits else {}


def processor_of(tiny: TinyFamily, folder: Path):
    """The family's own processor of transformers; SmolVLM's wants a package more, and Idefics3's does the same."""
    return (tiny.processor or partial(idefics_processor, "Idefics3Processor"))(folder)


def plain_answers(model: torch.nn.Module, folder: Path, tiny: TinyFamily, pictures: list[Path]) -> list[str]:
    """What plain transformers answers with the files of a folder, put together by the processor of the family itself."""
    processor, answers = processor_of(tiny, folder), []
    for picture in pictures:
        content = [{"type": "image", "image": open_picture(picture)}, {"type": "text", "text": QUESTION}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=processor.tokenizer.chat_template,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        found = model.generate(**inputs, max_new_tokens=40)
        answer = found[0, inputs["input_ids"].shape[1] :]
        answers.append(processor.tokenizer.decode(answer, skip_special_tokens=True).strip())
    return answers


def our_answers(
    base: Path, adapter: Path | None, pictures: list[Path], scratch: Path, question: str = QUESTION, **flags
) -> list[str]:
    rows = [
        {
            "id": picture.name,
            "image": picture.name,
            "conversations": [
                {"from": "human", "value": f"<image>\n{question}"},
                {"from": "gpt", "value": ""},
            ],
        }
        for picture in pictures
    ]
    (scratch / "prompts.json").write_text(json.dumps(rows))
    argv = command_line(
        base_model_name=base,
        adapter=adapter,
        dataset_path=scratch / "prompts.json",
        image_folder=pictures[0].parent,
        response_len=40,
        output_file=scratch / "answers.jsonl",
        use_cpu=True,
        **flags,
    )
    answer_prompts.run(answer_prompts.prepare(argv))
    (scratch / "prompts.json").unlink()
    answers = [json.loads(line)["answer"] for line in (scratch / "answers.jsonl").read_text().splitlines()]
    (scratch / "answers.jsonl").unlink()
    return answers


def test_plain_transformers_answers_as_we_do(exported, pictures, tmp_path):
    family = next(family for family in TINY_FAMILIES if family.model_type == exported.mode)
    limits = limits_of(exported.base)
    ours = our_answers(exported.base, exported.run, pictures, tmp_path, version="chat", **limits)
    assert len(set(ours)) > 3
    merged = AutoModelForImageTextToText.from_pretrained(exported.merged).eval()
    assert plain_answers(merged, exported.merged, family, pictures) == ours
    base = AutoModelForImageTextToText.from_pretrained(exported.base)
    base.generation_config = GenerationConfig.from_pretrained(exported.adapter)
    adapted = PeftModel.from_pretrained(base, exported.adapter).eval()
    assert plain_answers(adapted, exported.adapter, family, pictures) == ours
    # Our programs, from the export: the limits stand in its files.
    assert our_answers(exported.merged, None, pictures, tmp_path, version="chat") == ours
    if limits:
        with pytest.raises(
            ValueError, match=r"was trained with max_pixels 9216, not 50000: leave --max_pixels out"
        ):
            our_answers(exported.merged, None, pictures, tmp_path, version="chat", max_pixels=50000)
        with pytest.raises(
            ValueError, match=r"was trained with min_pixels 5120, not .*: add --min_pixels 5120"
        ):
            our_answers(exported.base, exported.run, pictures, tmp_path, version="chat")


@pytest.mark.slow
def test_the_program_of_the_card_answers_as_we_do(exported, pictures, tmp_path, capsys, monkeypatch):
    """`AutoProcessor` wants torchvision for most: the family's own processor stands in for it."""
    family = next(family for family in TINY_FAMILIES if family.model_type == exported.mode)

    def load(folder: str):
        processor = processor_of(family, Path(folder))
        processor.chat_template = processor.tokenizer.chat_template
        return processor

    monkeypatch.setattr(AutoProcessor, "from_pretrained", load)
    ours = our_answers(exported.merged, None, pictures, tmp_path, "What is in the image?", version="chat")
    # As many tokens as ours: a run of bytes is read as a whole.
    program = printed_program(exported.merged).replace("max_new_tokens=256", "max_new_tokens=40")
    answers = []
    for picture in pictures:
        capsys.readouterr()
        exec(compile(program.replace("PICTURE", str(picture)), "card", "exec"), {"__name__": "__main__"})
        answers.append(capsys.readouterr().out.strip())
    assert answers == ours


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_what_differs_from_training_is_noticed(exported, pictures, tmp_path):
    folder = shutil.copytree(exported.merged, tmp_path / "copy")
    text = load_text_side(exported.base, ImageChoices(**limits_of(exported.base)), "chat")
    rows = text.family.config.get_text_config().vocab_size
    inputs = our_inputs(text, text.template, pictures)
    check_inputs(folder, text, inputs, rows)
    own = json.loads((exported.base / "preprocessor_config.json").read_text())
    edit(folder / "preprocessor_config.json", image_mean=[0.3] * 3)
    with pytest.raises(RuntimeError, match=r"^wide: other pixels than ours"):
        check_inputs(folder, text, inputs, rows)
    edit(folder / "preprocessor_config.json", image_mean=own["image_mean"], size=own["size"])
    if text.family.pixel_limits:
        with pytest.raises(RuntimeError, match=r"other (ids|pixels|image_grid_thw) than ours"):
            check_inputs(folder, text, inputs, rows)
    shutil.copy(exported.merged / "preprocessor_config.json", folder)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + "yes")
    with pytest.raises(RuntimeError, match=r"^wide: other ids than ours"):
        check_inputs(folder, text, inputs, rows)
    shutil.copy(exported.merged / "chat_template.jinja", folder)
    shutil.copy(exported.merged / "generation_config.json", folder)
    edit(folder / "generation_config.json", eos_token_id=text.tokenizer.pad_token_id)
    with pytest.raises(RuntimeError, match=r"generation configuration in .*'eos_token_id'"):
        check_inputs(folder, text, inputs, rows)


def test_weights_keep_their_names_and_the_card_names_the_family(exported):
    family = read_family(exported.base)
    stored = load_file(exported.base / "model.safetensors").keys()
    assert load_file(exported.merged / "model.safetensors").keys() == set(map(family.published_name, stored))
    assert base_fingerprint(exported.merged) != base_fingerprint(exported.base)  # the adapter is in it
    card = (exported.merged / "README.md").read_text()
    assert card.count(family.architecture) == 2 and f"# {family.title} policy" in card
    assert "LLaVA" in family.title or not re.search("LLaVA|Llava", card)
