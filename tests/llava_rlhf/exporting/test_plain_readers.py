"""The folder is checked as its reader uses it: whatever differs from training stops the export and is named."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor, GenerationConfig, LlavaForConditionalGeneration

from data_utils.conversation import TEMPLATES
from data_utils.image_choices import ImageChoices
from data_utils.images import ImagePipeline, open_picture
from llava_rlhf.assembly.roles import load_text_side
from llava_rlhf.conversion.plain_files import plain_processor
from llava_rlhf.conversion.plain_inputs import check_inputs, our_inputs
from llava_rlhf.exporting import trained as trained_module
from llava_rlhf.exporting.model_card import Origin
from llava_rlhf.exporting.plain_answers import Questions, check_answers
from llava_rlhf.exporting.trained import Trained, read_trained
from llava_rlhf.runs.role_files import EXPORTED_ARGUMENTS
from models.base_fingerprint import base_fingerprint
from models.families.llava import Llava
from models.vision_fingerprint import vision_fingerprint
from models.vlm import load_image_processor
from tests.llava_rlhf.exporting.exports import export, write_run
from tests.support.tiny_models import tiny_tokenizer

TINY = TEMPLATES["tiny"]
ROWS = len(tiny_tokenizer())


@pytest.fixture
def copy(exported, tmp_path):
    """A merged export to be changed."""
    return shutil.copytree(exported.merged, tmp_path / "copy")


def edit(file, **changes) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def check(folder, exported, pictures) -> None:
    text = load_text_side(exported.base, ImageChoices(exported.mode), "tiny")
    check_inputs(folder, text, our_inputs(text, TINY, pictures), ROWS)


# --- what is written


def test_pixels_are_ours_and_not_those_of_the_base(exported, pictures):
    pipeline = ImagePipeline(load_image_processor(exported.base), exported.mode)
    cropping = AutoProcessor.from_pretrained(exported.base).image_processor
    differing = set()
    for folder in (exported.merged, exported.adapter):
        written = AutoProcessor.from_pretrained(folder).image_processor
        for picture in pictures:
            ours = pipeline(picture.parent, [picture.name]).pixels
            theirs = written(images=open_picture(picture), return_tensors="pt")["pixel_values"]
            assert torch.equal(theirs, ours), picture.name
            before = cropping(images=open_picture(picture), return_tensors="pt")["pixel_values"]
            differing |= {picture.stem} if not torch.equal(before, ours) else set()
    kinds = {picture.stem for picture in pictures} - {"square"}
    assert differing == (kinds if exported.mode == "pad" else set())


@pytest.mark.parametrize("mode", ["pad", "square"])
def test_our_pipeline_reads_the_written_processor_as_that_of_the_base(mode, exported, pictures):
    for folder in (exported.merged, exported.adapter):
        assert Llava.load_image_processor(folder).to_dict() == load_image_processor(exported.base).to_dict()
    names = [picture.name for picture in pictures]
    pipelines = [
        load_text_side(folder, ImageChoices(mode), "tiny").pipeline(pictures[0].parent, names).pixels
        for folder in (exported.base, exported.merged)
    ]
    assert torch.equal(*pipelines)


def test_weights_have_published_names_and_known_fingerprints(exported):
    names = load_file(exported.merged / "model.safetensors").keys()
    assert any(
        name.startswith("vision_tower.embeddings.") for name in load_file(exported.base / "model.safetensors")
    )
    starts = (
        "language_model.model.",
        "language_model.lm_head.",
        "multi_modal_projector.",
        "vision_tower.vision_model.",
    )
    assert all(name.startswith(starts) for name in names)
    _, info = LlavaForConditionalGeneration.from_pretrained(exported.merged, output_loading_info=True)
    assert not any(info.values()), info
    assert vision_fingerprint(exported.merged) == vision_fingerprint(exported.base)
    assert base_fingerprint(exported.merged) != base_fingerprint(exported.base)  # the adapter is in it


@pytest.mark.slow
def test_an_export_of_an_export_is_the_same(exported, tmp_path):
    """From the adapter alone, whose record goes along; and on top of a merged model."""
    again = export(exported.base, exported.adapter, tmp_path / "again", adapter_only=True)
    names = {file.name for file in exported.adapter.iterdir()}
    assert {file.name for file in again.iterdir()} == names and EXPORTED_ARGUMENTS in names
    assert all((again / name).read_bytes() == (exported.adapter / name).read_bytes() for name in names)
    run = write_run(exported.merged, tmp_path / "run", version="tiny", image_aspect_ratio=exported.mode)
    onto = export(exported.merged, run, tmp_path / "onto")
    for name in ("processor_config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (onto / name).read_bytes() == (exported.merged / name).read_bytes(), name


@pytest.mark.slow
def test_files_of_another_age_do_not_contradict(exported, tmp_path):
    base = shutil.copytree(exported.base, tmp_path / "base")
    load_image_processor(base).save_pretrained(base)  # preprocessor_config.json
    (base / "chat_template.json").write_text(json.dumps({"chat_template": "nonsense"}))
    edit(
        base / "generation_config.json",
        do_sample=True,
        temperature=2.0,
        eos_token_id=[7],
        repetition_penalty=3.0,
    )
    merged = export(base, exported.run, tmp_path / "merged")
    names = {"preprocessor_config.json", "chat_template.json"}
    assert {file.name for file in merged.iterdir()} & names == set()
    written = GenerationConfig.from_pretrained(merged)
    assert (written.eos_token_id, written.do_sample, written.repetition_penalty) == (2, None, None)


# --- what is checked


@pytest.mark.parametrize("exported", ["pad"], indirect=True)
def test_a_processor_that_crops_is_noticed(exported, copy, pictures, tmp_path, monkeypatch):
    check(copy, exported, pictures)
    load = AutoProcessor.from_pretrained(copy)
    load.image_processor.do_pad = False
    load.save_pretrained(copy)
    with pytest.raises(RuntimeError, match=r"^wide: other pixels than ours .* apart"):
        check(copy, exported, pictures)
    # The program checks too, and leaves nothing.
    monkeypatch.setattr(
        trained_module, "plain_processor", lambda *args: plain_processor(*args[:-1], "square")
    )
    with pytest.raises(RuntimeError, match=r"^wide: other pixels than ours"):
        export(exported.base, exported.run, tmp_path / "out", adapter_only=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("exported", ["pad"], indirect=True)
def test_every_kind_of_picture_can_give_the_alarm(exported, copy, pictures):
    """Each alone; the square one by another mean."""
    processor = AutoProcessor.from_pretrained(copy)
    processor.image_processor.image_mean = [0.4] * 3
    processor.save_pretrained(copy)
    for picture in pictures:
        with pytest.raises(RuntimeError, match=f"^{picture.stem}: other pixels"):
            check(copy, exported, [picture])


@pytest.mark.parametrize("exported", ["pad"], indirect=True)
def test_another_template_tokenizer_or_stop_is_noticed(exported, copy, pictures):
    template = copy / "chat_template.jinja"
    kept = template.read_text()
    template.write_text(kept.replace('"USER"', '"HUMAN"'))
    with pytest.raises(RuntimeError, match=r"^wide: other ids than ours .* first at 1: "):
        check(copy, exported, pictures)
    template.write_text(kept)
    shutil.copy(exported.base / "tokenizer.json", copy / "tokenizer.json")  # begins no text
    with pytest.raises(RuntimeError, match=r"^wide: other ids than ours .* first at 0"):
        check(copy, exported, pictures)
    with pytest.raises(RuntimeError, match=r"^no picture: other ids than ours"):
        check(copy, exported, [])
    shutil.copy(exported.merged / "tokenizer.json", copy / "tokenizer.json")
    edit(copy / "generation_config.json", eos_token_id=7)
    with pytest.raises(RuntimeError, match=r"generation configuration in .*'eos_token_id': 7"):
        check(copy, exported, pictures)
    edit(copy / "generation_config.json", eos_token_id=2, suppress_tokens=None)
    with pytest.raises(RuntimeError, match="'suppress_tokens': None"):
        check(copy, exported, pictures)


@pytest.mark.parametrize("exported", ["pad"], indirect=True)
def test_another_answer_is_noticed(exported, copy):
    questions = Questions.on_all_pictures(copy, exported.base, Trained("tiny", "pad"))
    model = LlavaForConditionalGeneration.from_pretrained(copy).eval()
    answers = []
    for question in questions.inputs:
        ids = torch.tensor([question.ids])
        images = {"pixel_values": question.pixels} if question.picture else {}
        answers.append(model.generate(ids, **images, max_new_tokens=16)[0, ids.shape[1] :].tolist())
    assert len({tuple(answer) for answer in answers}) > 3  # they depend on the picture
    check_answers(model, questions, answers, 1e-3)
    for number, name in ((0, "wide"), (len(answers) - 1, "no picture")):
        changed = [*answers]
        changed[number] = [*answers[number][:-1], (answers[number][-1] + 1) % ROWS]
        with pytest.raises(RuntimeError, match=f"^{name}: plain transformers answers"):
            check_answers(model, questions, changed, 1e-3)
        changed[number] = answers[number][:-1]
        with pytest.raises(RuntimeError, match=f"^{name}: plain transformers answers"):
            check_answers(model, questions, changed, 1e-3)


# --- how the policy was trained


def test_the_record_of_the_run_decides(tiny_base, tmp_path):
    record = {"DataArguments": {"version": "tiny", "image_aspect_ratio": "square"}}
    assert read_trained(record, tiny_base, None, None) == Trained("tiny", "square", recorded=True)
    assert read_trained(record, tiny_base, "tiny", "square").recorded
    with pytest.raises(ValueError, match="--image_aspect_ratio pad: the adapter was trained with square"):
        read_trained(record, tiny_base, None, "pad")
    with pytest.raises(ValueError, match="--version v1: the adapter was trained with tiny"):
        read_trained(record, tiny_base, "v1", None)
    with pytest.raises(ValueError, match="version 'v7' in the record"):
        read_trained({"DataArguments": {"version": "v7"}}, tiny_base, None, None)


def test_without_a_record_flags_the_base_and_defaults_speak(tiny_base, exported, tmp_path):
    assert read_trained(None, tiny_base, None, None) == Trained("v1", "pad")
    assert read_trained({}, tiny_base, "tiny", "square") == Trained("tiny", "square")
    assert read_trained(None, exported.merged, None, None) == Trained("tiny", exported.mode)
    base = shutil.copytree(tiny_base, tmp_path / "base")
    edit(base / "config.json", image_aspect_ratio="square")  # a converted base
    assert read_trained(None, base, None, None) == Trained("v1", "square")
    assert Origin.of(exported.adapter).arguments == Origin.of(exported.run).arguments
