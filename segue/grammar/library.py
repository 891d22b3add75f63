"""Imports xgrammar without the dependencies of its Hugging Face adapters.

xgrammar imports `transformers` for adapters that are not used here: four seconds and 100 MB in
every worker. A process that only compiles does not need torch either, which costs as much again. So
both are replaced during the import, and only then.
"""

from __future__ import annotations

import functools
import sys
import threading
from types import ModuleType
from typing import Any


class _Absent(ModuleType):
    """Has every class; none of them does anything."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {"__init__": lambda self, *args, **kwargs: None})
        setattr(self, name, made)
        return made


# Otherwise a second thread could see the replacements, or a half-imported library.
_importing = threading.Lock()


def xgrammar() -> Any:
    """The library. Imports torch only if the process has imported it."""
    with _importing:
        return _imported()


@functools.cache
def _imported() -> Any:
    absent = [name for name in ("torch", "transformers") if name not in sys.modules]
    if "torch" in absent:
        # It tries to import torch and works without it.
        sys.modules["torch"] = None  # type: ignore[assignment]
        import tvm_ffi  # noqa: F401
    sys.modules.update({name: _Absent(name) for name in absent})
    try:
        import xgrammar

        return xgrammar
    finally:
        for name in absent:
            del sys.modules[name]
