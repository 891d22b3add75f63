"""Tiny models take the way of large ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from segue.model import weight


@pytest.fixture(scope="package", autouse=True)
def arranged_weights() -> Iterator[None]:
    """Few rows are multiplied as in a model whose matrices are worth arranging."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weight, "MIN_ARRANGED", 0)
        yield
