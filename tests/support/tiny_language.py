"""Data of NLTK and a pipeline of spaCy, small and our own: what AMBER's published way needs, made on the spot.

Left out: everything that the words of one test do not need. The libraries are the real ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

SENTENCES = [
    [("Two", "CD"), ("dogs", "NNS"), ("watch", "VBP"), ("a", "DT"), ("puppy", "NN"), (".", ".")],
    [("A", "DT"), ("man", "NN"), ("sits", "VBZ"), ("on", "IN"), ("a", "DT"), ("bench", "NN"), (".", ".")],
    [("The", "DT"), ("man", "NN"), ("and", "CC"), ("two", "CD"), ("children", "NNS"), ("walk", "VBP"), (".", ".")],
    [("Men", "NNS"), ("watch", "VBP"), ("the", "DT"), ("light", "JJ"), ("sky", "NN"), (".", ".")],
]  # fmt: skip
NOUNS = ("dog", "puppy", "man", "bench", "child", "sky")
IRREGULAR = {"children": "child", "men": "man"}


def write_nltk_data(folder: Path) -> Path:
    """Tokenizer, tagger (trained on `SENTENCES`) and lemmas, in the layout of NLTK's own data."""
    from nltk.tag.perceptron import PerceptronTagger

    punkt = folder / "tokenizers" / "punkt_tab" / "english"
    punkt.mkdir(parents=True)
    for name in ("collocations.tab", "sent_starters.txt", "abbrev_types.txt", "ortho_context.tab"):
        (punkt / name).write_text("")
    tagger = PerceptronTagger(load=False)
    tagger.train(SENTENCES, nr_iter=20)
    place = folder / "taggers" / "averaged_perceptron_tagger_eng"
    place.mkdir(parents=True)
    parts = {"weights": tagger.model.weights, "tagdict": tagger.tagdict, "classes": sorted(tagger.classes)}
    for name, part in parts.items():
        (place / f"averaged_perceptron_tagger_eng.{name}.json").write_text(json.dumps(part))
    wordnet = folder / "corpora" / "wordnet"
    wordnet.mkdir(parents=True)
    (wordnet / "lexnames").write_text("00\tadj.all\t3\n01\tnoun.all\t1\n")
    (wordnet / "index.sense").write_text("")
    for part in ("noun", "verb", "adj", "adv"):
        nouns = sorted(NOUNS) if part == "noun" else []
        (wordnet / f"index.{part}").write_text(
            "".join(f"{word} n 1 0 1 0 {place:08d}  \n" for place, word in enumerate(nouns, 1))
        )
        (wordnet / f"data.{part}").write_text("")
        exceptions = IRREGULAR if part == "noun" else {}
        (wordnet / f"{part}.exc").write_text(
            "".join(f"{plural} {word}\n" for plural, word in exceptions.items())
        )
    return folder


def write_pipeline(folder: Path, vectors: Mapping[str, Sequence[float]]) -> Path:
    """A blank pipeline of spaCy with these vectors of words."""
    import spacy

    pipeline = spacy.blank("en")
    for word, vector in vectors.items():
        pipeline.vocab.set_vector(word, np.asarray(vector, dtype=np.float32))
    pipeline.meta["name"] = "tiny"
    pipeline.to_disk(folder)
    return folder
