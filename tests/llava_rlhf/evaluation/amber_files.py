"""A small folder of AMBER: two descriptions and ten questions, our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RELATION = {
    "dog": ["puppy"],
    "tree": ["bush"],
    "man": ["person"],
    "cloud": [],
    "orange": ["tangerine"],
    "child": [],
}
DESCRIBED = [
    {"id": 1, "type": "generative", "truth": ["dog", "tree"], "hallu": ["cloud", "man"]},
    {"id": 2, "type": "generative", "truth": ["man"], "hallu": ["dog"]},
]
KINDS = [
    "discriminative-hallucination",
    "discriminative-attribute-state",
    "discriminative-attribute-number",
    "discriminative-attribute-action",
    "discriminative-relation",
]
ANNOTATIONS: list[dict[str, Any]] = [
    *DESCRIBED,
    *({"id": 3 + number, "type": kind, "truth": "yes"} for number, kind in enumerate(KINDS)),
    # In the published file a relation that is not there is called so.
    *(
        {"id": 8 + number, "type": kind.replace("discriminative-relation", "relation"), "truth": "no"}
        for number, kind in enumerate(KINDS)
    ),
]


def write_amber(folder: Path, annotations: list[dict[str, Any]] = ANNOTATIONS, **query: Any) -> str:
    """The folder `data` of AMBER below `folder`; the query file. `query` changes its first row."""
    data = folder / "data"
    (data / "query").mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "id": row["id"],
            "image": f"{row['id'] % 2}.jpg",
            "query": "Describe this image." if row["type"] == "generative" else f"Is it so, {row['id']}?",
        }
        for row in ANNOTATIONS
    ]
    rows[0] |= query
    (data / "annotations.json").write_text(json.dumps(annotations))
    (data / "relation.json").write_text(json.dumps(RELATION))
    (data / "safe_words.txt").write_text("orange\nlight")
    (data / "query" / "query_all.json").write_text(json.dumps(rows))
    return str(data / "query" / "query_all.json")
