from __future__ import annotations

import pytest

from tests.models.families.worlds import World, make_world
from tests.support.tiers import tiered
from tests.support.tiny_families import TINY_FAMILIES


@pytest.fixture(
    scope="session",
    params=tiered(TINY_FAMILIES, quick=("llava", "qwen2_5_vl"), name=lambda family: family.model_type),
)
def world(request, tmp_path_factory) -> World:
    return make_world(request.param, tmp_path_factory.mktemp("bases"))
