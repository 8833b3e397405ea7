"""Nouns and similar words as AMBER's script finds them, with the real libraries on data of our own."""

from __future__ import annotations

import pytest

from llava_rlhf.evaluation.benchmarks.amber import Amber
from llava_rlhf.evaluation.benchmarks.words import TaggedWords
from tests.llava_rlhf.evaluation.amber_files import ANNOTATIONS, write_amber
from tests.llava_rlhf.evaluation.published_pairs_rows import values
from tests.support.tiny_language import write_nltk_data, write_pipeline

nltk = pytest.importorskip("nltk", reason="nltk is not installed (the extra amber of setup.py)")
pytest.importorskip("spacy", reason="spacy is not installed (the extra amber of setup.py)")

# cos(dog, puppy) = 0.96, cos(dog, hound) = 0.79, cos(dog, man) = 0
VECTORS = {"dog": (1, 0), "puppy": (0.96, 0.28), "hound": (0.79, 0.6131), "man": (0, 1)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_nltk_data(tmp_path_factory.mktemp("nltk_data"))


@pytest.fixture
def words(data, tmp_path, monkeypatch):
    monkeypatch.setattr(nltk.data, "path", [str(data)])
    return TaggedWords(str(write_pipeline(tmp_path / "tiny", VECTORS)))


def test_nouns_are_lemmas_of_what_is_tagged_a_noun(words):
    assert words.nouns("Two dogs watch a puppy. The man and two children walk.") == [
        "dog",
        "puppy",
        "man",
        "child",
    ]
    assert words.nouns("") == []


def test_a_verb_is_no_thing_though_the_lists_know_it(words):
    assert words.nouns("Men watch the light sky.")[-1] == "sky"
    assert "watch" not in words.nouns("Men watch the light sky.")


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("dog", "puppy", True),
        ("dog", "hound", False),  # 0.79 is not above 0.8
        ("dog", "man", False),
        ("dog", "dog", True),
        ("dog", "unicorn", False),  # no vector
        ("unicorn", "unicorn", True),
    ],
)
def test_what_is_alike(words, one, other, alike):
    assert words.alike(one, other) is alike


def test_a_description_that_names_something_alike(words, tmp_path):
    amber = Amber(write_amber(tmp_path), lambda vocabulary: words)
    answers = [{"id": str(ANNOTATIONS[1]["id"]), "answer": "Two dogs watch a puppy."}]
    scores = amber.score(answers, True)
    # 2: a man is there, a dog imagined. The dog is imagined and invented; the puppy stands for the dog, and is invented.
    found = values(scores, amber.metrics)["all"]
    assert (found["chair"], found["cover"], found["cog"]) == (1, 0, 1)
    assert scores.conditions["words"].startswith(f"nltk {nltk.__version__}, en_tiny ")


def test_data_and_pipelines_that_are_not_there_are_refused(data, tmp_path, monkeypatch):
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    with pytest.raises(
        ValueError,
        match=r"NLTK has no data punkt_tab, averaged_perceptron_tagger_eng, wordnet; python -m nltk",
    ):
        TaggedWords("en_core_web_lg")
    monkeypatch.setattr(nltk.data, "path", [str(data)])
    with pytest.raises(
        ValueError,
        match="--spacy_model en_no_such: neither an installed pipeline nor a folder; python -m spacy",
    ):
        TaggedWords("en_no_such")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="spaCy can't load it"):
        TaggedWords(str(tmp_path / "empty"))
    with pytest.raises(ValueError, match="has no vectors of words"):
        TaggedWords(str(write_pipeline(tmp_path / "blind", {})))
