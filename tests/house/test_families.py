"""One door: what is not in the folder of families names no family's modules, classes or types."""

from __future__ import annotations

import re

import pytest

from models.families.registry import FAMILIES
from tests.house.rooms import ROOT
from tests.house.test_layers import name_of, python_files

# Path -> why it is about one family.
OF_ONE_FAMILY = {
    "llava_rlhf/convert_checkpoint.py": "reads the LLaVA checkpoints of 2023",
    "llava_rlhf/conversion/": "their formats, and the files that plain transformers wants of a LLaVA",
    "llava_rlhf/tiny_world/": "builds a base of either family that has a tiny world",
}


def family_words() -> re.Pattern[str]:
    """Names of towers and of classes of transformers, of every family."""
    words = set()
    for family in FAMILIES.values():
        words |= {module.split(".")[-1] for module in family.towers.values()}
        words.add(
            family.architecture.removesuffix("ForConditionalGeneration") + "(For|Config|Model|Processor)"
        )
    return re.compile(rf"(?<![a-z_])({'|'.join(sorted(words))})")


def named(source: str) -> list[str]:
    return [found[0] for found in family_words().finditer(source)]


@pytest.mark.parametrize(
    "source",
    [
        "model.model.vision_tower.dtype",
        "skip = ['model.multi_modal_projector']",
        "from transformers import LlavaForConditionalGeneration",
        "config: LlavaConfig",
    ],
)
def test_a_name_of_a_family_is_seen(source):
    assert named(source)


def test_only_the_folder_of_families_names_them():
    files = python_files("models", "data_utils", "llava_rlhf")
    sources = {name_of(path): path.read_text(encoding="utf-8") for path in files}
    assert any(named(text) for name, text in sources.items() if name.startswith("models/families/"))
    rest = {name: text for name, text in sources.items() if not name.startswith("models/families/")}
    found = {name for name, text in rest.items() if named(text)}
    exempt = {name for name in found if name.startswith(tuple(OF_ONE_FAMILY))}
    assert sorted(found - exempt) == []
    for path in OF_ONE_FAMILY:  # a reason that no longer applies is an error too
        assert (ROOT / path).exists() and any(name.startswith(path) for name in exempt), path
