"""Takes memory in several steps, and gives all of it back unless every step succeeds.

    with UntilKept() as taken:
        pages = accountant.take(num_pages, UnitState.WORKING, owner=turn)
        taken.callback(accountant.give_back, pages, UnitState.WORKING)
        ...
        taken.keep()

Whatever is raised in between, by Segue or by a library, no unit is left without an owner.
"""

from __future__ import annotations

import contextlib


class UntilKept(contextlib.ExitStack):
    """Undoes all steps on exit, last first, unless `keep` was called."""

    def keep(self) -> None:
        """Keeps everything: it all has an owner now."""
        self.pop_all()
