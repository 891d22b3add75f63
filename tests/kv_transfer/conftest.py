from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kv_transfer.pair import Pair
from tests.kv_transfer.world import World


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


@pytest.fixture
def pair(world: World) -> Pair:
    return Pair(world)
