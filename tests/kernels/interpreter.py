"""Triton's interpreter without what it does again and again: four times as fast, with the same
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
    remember_conversions()
    call_builtins_directly()


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


def remember_conversions() -> None:
    """The type in which two operands are computed, and the shape that they get, follow from their
    types."""
    semantic = interpreter.TritonSemantic
    broadcast, type_of, equals = (
        semantic.broadcast_impl_value,
        semantic.computation_type_impl,
        tl.dtype.__eq__,
    )
    of_pairs: dict[tuple[str, str], tuple[Any, Any]] = {}
    of_operands: dict[tuple[object, ...], Any] = {}

    def broadcast_pair(self: Any, lhs: Any, rhs: Any) -> tuple[Any, Any]:
        pair = (lhs.type.name, rhs.type.name)
        if pair[0] == pair[1]:
            return lhs, rhs
        if pair not in of_pairs:
            lhs, rhs = broadcast(self, lhs, rhs)
            of_pairs[pair] = (lhs.type, rhs.type)
            return lhs, rhs
        types = of_pairs[pair]
        return of_shape(self, lhs, types[0]), of_shape(self, rhs, types[1])

    def of_shape(self: Any, value: Any, type: Any) -> Any:
        if value.type.name == type.name:
            return value
        if value.type.is_block():
            # Also adds axes.
            handle = self.builder.create_broadcast(value.handle, type.shape.values)
        else:
            handle = self.builder.create_splat(type, value.handle)
        return self.tensor(handle, type)

    def computation_type(
        self: Any, a_ty: Any, a_is_scalar: bool, b_ty: Any, b_is_scalar: bool, div_or_mod: bool
    ) -> Any:
        key = (a_ty.name, a_is_scalar, b_ty.name, b_is_scalar, div_or_mod)
        if key not in of_operands:
            of_operands[key] = type_of(self, a_ty, a_is_scalar, b_ty, b_is_scalar, div_or_mod)
        return of_operands[key]

    semantic.broadcast_impl_value = broadcast_pair
    semantic.computation_type_impl = computation_type
    tl.dtype.__eq__ = lambda self, other: self is other or equals(self, other)


def call_builtins_directly() -> None:
    """Each call of a builtin copies its arguments, and asks in a wrapper whether it has one that is
    always there."""
    wrapper = tl.core.builtin(lambda: None).__code__

    def patch_attr(obj: Any, name: str, member: Any, builder: Any, scope: Any) -> None:
        function = member.__wrapped__ if member.__code__ is wrapper else member

        def new_member(*args: Any, **kwargs: Any) -> Any:
            kwargs["_semantic"] = interpreter.interpreter_semantic
            return function(*args, **kwargs)

        scope.set_attr(obj, name, new_member)

    interpreter._patch_attr = patch_attr
