"""Which things does a description name, and which words mean the same? As AMBER's script has it, or by its lists alone.

The published way needs two language libraries and their data, which `pip install "llava-rlhf[amber]"` and the commands in
the messages bring; nothing is downloaded here.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol

from llava_rlhf.fact_rewards.object_words import plurals

SIMILARITY_ABOVE = 0.8  # cosine of two words' vectors, from AMBER's inference.py
INSTALL = "pip install 'nltk>=3.9,<4' 'spacy>=3.8,<4' (the extra amber of setup.py)"
NLTK_DATA = {
    "punkt_tab": "tokenizers/punkt_tab/english",
    "averaged_perceptron_tagger_eng": "taggers/averaged_perceptron_tagger_eng",
    "wordnet": "corpora/wordnet",
}
_LISTED = re.compile(r"[a-z]+(?:-[a-z]+)*")
# Plurals that no ending tells.
_IRREGULAR = {
    "men": "man",
    "women": "woman",
    "children": "child",
    "knives": "knife",
    "mice": "mouse",
    "geese": "goose",
}


class Words(Protocol):
    """How words are read.

    Attributes:
        name: who reads them, with version: numbers of other readers are not comparable.
    """

    name: str

    def nouns(self, text: str) -> list[str]:
        """The things that a text names, in the singular, in order, repeated as the text repeats them."""
        ...

    def alike(self, one: str, other: str) -> bool:
        """Whether two words mean nearly the same."""
        ...


class ListedWords:
    """By the lists alone: every word of the vocabulary counts wherever it stands, as if it were a noun; none is like another.

    Args:
        vocabulary: words in the singular.
    """

    name = "lists"

    def __init__(self, vocabulary: Collection[str]):
        self._singular = {plural: word for plural, word in _IRREGULAR.items() if word in vocabulary}
        for word in vocabulary:
            for plural in plurals(word.lower()):
                self._singular.setdefault(plural, word)
        self._singular |= {word.lower(): word for word in vocabulary}

    def nouns(self, text: str) -> list[str]:
        """As `Words.nouns`; capital letters mean nothing."""
        return [self._singular.get(word, word) for word in _LISTED.findall(text.lower())]

    def alike(self, one: str, other: str) -> bool:
        """As `Words.alike`: never."""
        return False


class TaggedWords:
    """As published: NLTK splits, tags and lemmatises; spaCy's vectors say what is alike. Capital letters are kept.

    Args:
        spacy_model: a pipeline of spaCy that is installed, or its folder.

    Raises:
        ValueError: a package, its data or the pipeline is not there, or the pipeline has no vectors.
    """

    def __init__(self, spacy_model: str):
        missing = [name for name in ("nltk", "spacy") if importlib.util.find_spec(name) is None]
        if missing:
            raise ValueError(
                f"--amber_words published finds nouns with {' and '.join(missing)}, not installed here: {INSTALL}; or take "
                "--amber_words lists, whose numbers are not comparable with published ones"
            )
        import nltk
        import spacy

        _check_data(nltk)
        if not spacy.util.is_package(spacy_model) and not Path(spacy_model).is_dir():
            raise ValueError(
                f"--spacy_model {spacy_model}: neither an installed pipeline nor a folder; python -m spacy download {spacy_model}"
            )
        try:
            self._pipeline = spacy.load(spacy_model)
        except (OSError, ValueError) as error:
            raise ValueError(f"--spacy_model {spacy_model}: spaCy can't load it ({error})") from None
        if not self._pipeline.vocab.vectors.n_keys:
            raise ValueError(
                f"--spacy_model {spacy_model}: has no vectors of words; those that end in _lg and _md have"
            )
        self._nltk, self._lemmatizer = nltk, nltk.stem.WordNetLemmatizer()
        self._same: dict[tuple[str, str], bool] = {}
        about = self._pipeline.meta
        pipeline = f"{about['lang']}_{about['name']} {about['version']}"
        self.name = f"nltk {nltk.__version__}, {pipeline} of spacy {spacy.__version__}"

    def nouns(self, text: str) -> list[str]:
        """As `Words.nouns`: lemmas of the tokens whose tag begins with NN."""
        tagged = self._nltk.pos_tag(self._nltk.word_tokenize(text))
        return [self._lemmatizer.lemmatize(word) for word, tag in tagged if tag.startswith("NN")]

    def alike(self, one: str, other: str) -> bool:
        """As `Words.alike`: a cosine above `SIMILARITY_ABOVE`. A word without a vector is like none but itself."""
        if (one, other) not in self._same:
            first, second = self._pipeline.make_doc(one), self._pipeline.make_doc(other)
            similar = (
                first.vector_norm > 0 < second.vector_norm and first.similarity(second) > SIMILARITY_ABOVE
            )
            self._same[one, other] = bool(similar) or one == other
        return self._same[one, other]


def _check_data(nltk: Any) -> None:
    lacking = []
    for name, place in NLTK_DATA.items():
        found = False
        for spelt in (place, f"{place}.zip"):
            try:
                nltk.data.find(spelt)
                found = True
            except LookupError:
                continue
        lacking += [] if found else [name]
    if lacking:
        raise ValueError(
            f"--amber_words published: NLTK has no data {', '.join(lacking)}; python -m nltk.downloader {' '.join(lacking)}"
        )
