"""Triton's interpreter without what it does again and again: three times as fast, with the same
results. Its own parts are replaced, so a new version of Triton may need other ones.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import triton.language as tl
from triton.runtime import interpreter


@functools.cache
def speed_up() -> None:
    """For the rest of this process."""
    patch_once_per_launch()
    leave_out_unread_sums()
    remember_types()


def patch_once_per_launch() -> None:
    """A launch replaces the functions of `triton.language`. Each call of a device function, such as
    `tl.sum`, would look for them and replace them again: half of the interpreter's time."""
    patch = interpreter._patch_lang
    language = SimpleNamespace(__globals__={"tl": tl, "core": tl.core})
    is_patched = False

    def patch_unless_patched(_: Callable[..., Any]) -> Any:
        nonlocal is_patched
        if is_patched:
            return interpreter._LangPatchScope()
        scope = patch(language)
        restore, is_patched = scope.restore, True

        def restored() -> None:
            nonlocal is_patched
            is_patched = False
            restore()

        scope.restore = restored
        return scope

    interpreter._patch_lang = patch_unless_patched


def leave_out_unread_sums() -> None:
    """Integers are added and multiplied a second time, in 64 bits, for an assertion that is only
    in a debug build."""
    builder = interpreter.interpreter_builder
    assert not builder.options.debug
    builder.options = interpreter.InterpreterOptions(sanitize_overflow=False)


def remember_types() -> None:
    """Every value makes a type, a shape of its own and a table of NumPy's types. There are few
    different ones, and none of them changes."""
    make_type, make_value = tl.block_type.__init__, tl.tensor.__init__
    numpy_type = interpreter._get_np_dtype
    of_types: dict[tuple[object, ...], dict[str, Any]] = {}
    of_values: dict[str, dict[str, Any]] = {}
    numpy_types: dict[str, Any] = {}

    def new_type(self: Any, element_ty: Any, shape: Any) -> None:
        key = (element_ty.name, *(getattr(size, "value", size) for size in shape))
        if key not in of_types:
            make_type(self, element_ty, shape)
            of_types[key] = {name: getattr(self, name) for name in ("shape", "numel", "name")}
        self.__dict__.update(of_types[key], element_ty=element_ty)

    def new_value(self: Any, handle: Any, type: Any) -> None:
        if type.name not in of_values:
            make_value(self, handle, type)
            of_values[type.name] = {"shape": self.shape, "numel": self.numel}
        self.__dict__.update(of_values[type.name], handle=handle, type=type, dtype=type.scalar)

    def numpy_type_of(type: Any) -> Any:
        if type.name not in numpy_types:
            numpy_types[type.name] = numpy_type(type)
        return numpy_types[type.name]

    tl.block_type.__init__, tl.tensor.__init__ = new_type, new_value
    interpreter._get_np_dtype = numpy_type_of
