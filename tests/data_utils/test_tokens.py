"""Ids and masks against the recordings of the original, against sentencepiece, and against each other."""

from __future__ import annotations

import json
import random

import pytest
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from data_utils.conversation import TEMPLATES, Segment, dialogue_segments, query_segments
from data_utils.facts import RewardPrompt
from data_utils.llama_tokenizer import load_sentencepiece_tokenizer
from data_utils.schema import Turn, read_dialogues, read_preferences, read_prompts
from data_utils.tokens import SegmentEncoder, expand_image_tokens

V1, TINY = TEMPLATES["v1"], TEMPLATES["tiny"]
STOP = Segment("stop", "</s>", False)


def text(value: str, supervised: bool = False) -> Segment:
    return Segment("text", value, supervised)


def load(golden, name):
    return json.loads((golden / "data" / name).read_text())


def prompt_file(name: str) -> RewardPrompt:
    return RewardPrompt.from_file(f"prompts/{name}")


# --- the recordings


def test_golden_dialogues_have_the_same_ids_and_labels(golden, llama_encoder):
    records, _ = read_dialogues(golden / "data" / "sft.json")
    recorded = load(golden, "golden_sft.json")
    assert len(records) == len(recorded) == 8
    for record, row in zip(records, recorded, strict=True):
        tokens = llama_encoder.encode(dialogue_segments(V1, record.turns, len(record.images)))
        labels = [i if loss else -100 for i, loss in zip(tokens.ids, tokens.supervised, strict=True)]
        assert list(tokens.ids) == row["input_ids"], record.id
        assert labels == row["labels"], record.id


@pytest.mark.parametrize("kind", ["plain", "fact"])
def test_golden_reward_inputs_have_the_same_ids(golden, llama_encoder, kind, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
    prompt = prompt_file("reward_prompt.txt" if kind == "plain" else "fact_rlhf_reward_prompt.txt")
    records, _ = read_preferences(golden / "data" / "preference.json")
    for record, row in zip(records, load(golden, f"golden_rm_{kind}.json"), strict=True):
        for which, output in enumerate(record.outputs):
            captions = row["caption_orders"][which] if kind == "fact" else None
            reward_prompt = llama_encoder.encode_reward_prompt(prompt.render(captions))
            query = llama_encoder.encode(query_segments(V1, record.turns, len(record.images))).ids
            ids = [*query, *llama_encoder.encode_response(output), 2, *reward_prompt]
            assert ids == row["input_ids"][which], (record.id, which)


@pytest.mark.parametrize(("inputs", "recorded"), [("rl.json", "rl_q1024"), ("rl16.json", "rl16_q64")])
def test_golden_queries_have_the_same_ids(golden, llama_encoder, inputs, recorded):
    records = {record.id: record for record in read_prompts(golden / "data" / inputs)[0]}
    rows = load(golden, f"golden_{recorded}.json")["rows"]
    for row in rows:
        record = records[row["record_id"]]
        expected = [i for i, real in zip(row["query"], row["query_attn_mask"], strict=True) if real]
        query = llama_encoder.encode(query_segments(V1, record.turns, len(record.images)))
        assert list(query.ids) == expected, record.id
        assert not any(query.supervised)
    assert len(rows) == len(records)


def test_golden_probes(golden, llama_encoder):
    probes = load(golden, "golden_tokenizer_probes.json")
    for probe in probes:
        # Control tokens other than the stop cannot be written by a text here, which is meant.
        value = probe["text"].split("<unk>")[0]
        pieces = value.split("</s>")
        segments = [text(pieces[0])] if pieces[0] else []
        for piece in pieces[1:]:
            segments += [STOP, text(piece)]
        ids = list(llama_encoder.encode(segments).ids)
        assert ids == probe["ids"][: len(ids)], probe
        assert value != probe["text"] or ids == probe["ids"], probe
    assert len(probes) == 20


# --- sentencepiece itself


def test_the_converted_tokenizer_equals_sentencepiece_on_random_text(llama_model_file, llama_tokenizer):
    model = SentencePieceProcessor(str(llama_model_file))
    rng = random.Random(0)
    letters = " " * 6 + "abcdeTHE?.,()\n\t猫é🐈0123"
    for _ in range(1000):
        value = "".join(rng.choice(letters) for _ in range(rng.randint(0, 30)))
        assert llama_tokenizer(value, add_special_tokens=False)["input_ids"] == model.encode(value), repr(
            value
        )


def test_the_ids_survive_saving(llama_tokenizer, llama_encoder, tmp_path):
    llama_tokenizer.save_pretrained(tmp_path)
    encoder = SegmentEncoder(PreTrainedTokenizerFast.from_pretrained(tmp_path), -200)
    value = " USER: Please\n  two"
    assert encoder.encode_reward_prompt(value) == llama_encoder.encode_reward_prompt(value)
    assert encoder.encode([text("ok"), STOP]).ids == (1, 3431, 2)


def test_a_metaspace_tokenizer_gives_the_same_ids(llama_tokenizer, llama_encoder):
    # transformers writes Llama's dummy prefix as Metaspace, which skips it in front of a space.
    spec = json.loads(llama_tokenizer.backend_tokenizer.to_str())
    spec["normalizer"] = None
    spec["pre_tokenizer"] = {
        "type": "Metaspace",
        "replacement": "▁",
        "prepend_scheme": "first",
        "split": False,
    }
    other = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(spec)),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    encoder = SegmentEncoder(other, -200)
    for value in (" USER: Please", "USER", "  two", "\nq", " "):
        assert encoder.encode_reward_prompt(value) == llama_encoder.encode_reward_prompt(value)
        assert encoder.encode_response(value) == llama_encoder.encode_response(value)
        segments = [text("ok"), STOP, text(value)]
        assert encoder.encode(segments) == llama_encoder.encode(segments)


def test_a_missing_tokenizer_model_is_a_value_error(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        load_sentencepiece_tokenizer(tmp_path / "tokenizer.model")


# --- properties that hold for any tokenizer


def turns(*texts: str) -> tuple[Turn, ...]:
    return tuple(Turn(("human", "gpt")[index % 2], value) for index, value in enumerate(texts))


@pytest.mark.parametrize("encoder_name", ["word_encoder", "llama_encoder"])
@pytest.mark.parametrize(
    "answer", ["a cat .", " starts with a space", "ends\n", "\n", "🐈", ":(", "</s>", "<image>"]
)
def test_query_and_response_make_the_dialogue(request, encoder_name, answer):
    encoder = request.getfixturevalue(encoder_name)
    question = turns("<image> What?", "Yes.", "Sure? ")
    query = encoder.encode(query_segments(V1, question, 1))
    whole = encoder.encode(dialogue_segments(V1, (*question, Turn("gpt", answer)), 1))
    response = [*encoder.encode_response(answer), 2]
    assert list(whole.ids) == [*query.ids, *response]
    assert list(whole.supervised) == [*query.supervised, *[True] * len(response)]


CONTROL_TEXTS = ["</s>", "<s>x", "a <unk> b", "<image>", "<pad>", "</s></s>", "USER: </s> <s>"]


@pytest.mark.parametrize("value", CONTROL_TEXTS)
def test_llama_text_never_yields_control_tokens(llama_encoder, value):
    ids = llama_encoder.encode([text(f"USER: {value}"), STOP, text(value)]).ids[1:]
    assert ids.count(2) == 1  # the stop segment
    assert not {0, 1, -200} & set(ids)
    assert not {0, 1, 2, -200} & set(llama_encoder.encode_response(value))


@pytest.mark.parametrize("value", CONTROL_TEXTS)
def test_word_text_never_yields_control_tokens(word_encoder, value):
    # <unk>, 3, is what an unknown word is; it controls nothing.
    ids = word_encoder.encode([text(f"USER: {value}"), STOP, text(value)]).ids[1:]
    assert ids.count(2) == 1
    assert not {0, 1, 4} & set(ids)
    assert not {0, 1, 2, 4} & set(word_encoder.encode_response(value))
    assert 3 in ids


def test_ids_and_mask_of_a_word_tokenizer_by_hand(word_encoder):
    tokens = word_encoder.encode(dialogue_segments(TINY, turns("<image> what is this ?", "a cat ."), 1))
    # <s> USER: <image> what is this ? ASSISTANT: | a cat . </s>
    assert tokens.ids == (1, 5, 4, 7, 8, 9, 10, 6, 11, 12, 18, 2)
    assert tokens.supervised == (False,) * 8 + (True,) * 4


@pytest.mark.parametrize("family", ["byte level", "metaspace"])
def test_other_families_put_nothing_in_front_of_a_continuation(family):
    corpus = ["USER: what is this ? ASSISTANT: a cat and a dog"] * 4
    backend = Tokenizer(models.BPE())
    special = ["<s>", "</s>", "<image>"]
    if family == "byte level":
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        letters = pre_tokenizers.ByteLevel.alphabet()
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
        letters = []
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=letters)
    backend.train_from_iterator(corpus, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    encoder = SegmentEncoder(tokenizer, 2)
    marker = "Ġ" if family == "byte level" else "▁"

    def pieces(*segments: Segment) -> list[str]:
        return tokenizer.convert_ids_to_tokens(encoder.encode(segments).ids)

    assert pieces(text("what")) == ["<s>", f"{marker}what"]
    assert "".join(pieces(text("what"), text("what"))) == f"<s>{marker}whatwhat"
    assert "".join(pieces(text("what"), STOP, text("what"))) == f"<s>{marker}what</s>what"
    assert "".join(pieces(text("what"), text(" what"))) == f"<s>{marker}what{marker}what"
    assert not {0, 1, 2} & set(encoder.encode([text("<s></s><image>")]).ids[1:])


def test_the_tokenizer_is_left_as_it_was(llama_tokenizer):
    before = llama_tokenizer.backend_tokenizer.to_str()
    SegmentEncoder(llama_tokenizer, -200).encode([text("USER: </s>")])
    assert llama_tokenizer.backend_tokenizer.to_str() == before
    assert llama_tokenizer("</s>", add_special_tokens=False)["input_ids"] == [2]


def test_decoding_shows_images_and_control_tokens(llama_encoder, word_encoder):
    tokens = llama_encoder.encode(dialogue_segments(TINY, turns("<image> What?", "A cat."), 1))
    shown = llama_encoder.decode(tokens.ids)
    assert "<image>" in shown and shown.endswith("A cat.</s>") and shown.count("</s>") == 1
    assert word_encoder.decode([1, 5, 4, 7]) == "<s> USER:<image>what"


def test_a_stop_that_is_no_token_is_refused(word_encoder):
    with pytest.raises(ValueError, match="im_end"):
        word_encoder.encode([Segment("stop", "<|im_end|>", True)])


def test_image_tokens_expand_in_place():
    assert expand_image_tokens([1, 9, 5, 9], 9, [(9, 9, 9)] * 2) == [1, 9, 9, 9, 5, 9, 9, 9]
    assert expand_image_tokens([1, 5], 9, [(9, 9, 9)]) == [1, 5]
    with pytest.raises(ValueError, match="more image tokens than images"):
        expand_image_tokens([1, 9, 9], 9, [(9,)])


def test_images_of_several_rows_stand_one_behind_the_other():
    placeholders = iter([(7, 9, 8), (9, 9)])
    rows = [expand_image_tokens(ids, 9, placeholders) for ids in ([1, 9], [2], [9, 3])]
    assert rows == [[1, 7, 9, 8], [2], [9, 9, 3]]
