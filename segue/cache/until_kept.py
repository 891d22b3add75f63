"""The one way to take memory in several steps: what was taken goes back unless all of it is kept.

    with UntilKept() as taken:
        pages = accountant.take(num_pages, UnitState.WORKING, owner=turn)
        taken.callback(accountant.give_back, pages, UnitState.WORKING)
        ...
        taken.keep()

Whatever is raised in between, by us or by a library, nothing stays without an owner.
"""

from __future__ import annotations

import contextlib


class UntilKept(contextlib.ExitStack):
    """Undoes on leaving, last first, unless `keep` was called."""

    def keep(self) -> None:
        """All of it has an owner from now on."""
        self.pop_all()
