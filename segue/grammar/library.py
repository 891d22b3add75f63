"""Imports xgrammar without what its Hugging Face adapters need.

xgrammar imports `transformers` at once, for adapters that nothing here uses: four seconds and 100
MB in every worker. A process that only compiles needs no torch either, which is as much again. So
both are replaced during the import, and only there.
"""

from __future__ import annotations

import functools
import sys
import threading
from types import ModuleType
from typing import Any


class _Absent(ModuleType):
    """Has every class, and each does nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {"__init__": lambda self, *args, **kwargs: None})
        setattr(self, name, made)
        return made


# Without it, a second thread would see the replacements, or a library that is half imported.
_importing = threading.Lock()


def xgrammar() -> Any:
    """The library. Imports torch only if the process has imported it."""
    with _importing:
        return _imported()


@functools.cache
def _imported() -> Any:
    absent = [name for name in ("torch", "transformers") if name not in sys.modules]
    if "torch" in absent:
        # This one asks for torch and can do without it.
        sys.modules["torch"] = None  # type: ignore[assignment]
        import tvm_ffi  # noqa: F401
    sys.modules.update({name: _Absent(name) for name in absent})
    try:
        import xgrammar

        return xgrammar
    finally:
        for name in absent:
            del sys.modules[name]
