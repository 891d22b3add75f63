"""Programs that run as if only the base dependencies were installed. Importing this blocks all
other modules: they cannot be found, as if they were not there.
"""

from __future__ import annotations

import asyncio
import importlib.machinery
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

VARIABLE = "SEGUE_TEST_BLOCKED"
"""Its value names the blocked modules, with commas between them."""

_blocked = frozenset(os.environ[VARIABLE].split(","))


class _Finder(PathFinder):
    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return None if name.partition(".")[0] in _blocked else super().find_spec(name, path, target)


# Python itself has imported that one, which setuptools installs.
if early := _blocked & sys.modules.keys() - {"_distutils_hack"}:
    raise RuntimeError(f"imported before they were blocked: {early}")
sys.meta_path = [one for one in sys.meta_path if one is not importlib.machinery.PathFinder]
sys.meta_path.append(_Finder)


def command_line() -> None:
    from segue.cli.main import main

    main()


def sdk() -> None:
    from segue import Client

    async def talk() -> None:
        async with Client(sys.argv[1]) as client:
            session = client.session(system="Be brief.")
            async for _ in session.turn("Hello"):
                pass
            model = (await client.status()).model
        sys.stdout.write(f"{session.messages[-1].content} {model}\n")

    asyncio.run(talk())
