"""A chat template compiled a second time, to run on the objects of `replay/`.

The program is the same, but loops over the messages are marked, and every filter, test and function
is wrapped. A number that may change is then never used unnoticed (`moving.py`), and only a marked
loop iterates over the messages. Loops are not marked if their text is not emitted piece by piece:
in macros and other blocks that collect their text first. In these and other unforeseen cases the
template is rendered in full.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, cast

import jinja2
from jinja2 import nodes
from jinja2.runtime import LoopContext

from segue.api.errors import InvalidRequest
from segue.text.conversation import JsonObject
from segue.text.replay.moving import NotLocal, VaryingInt, exact
from segue.text.replay.rendering import Replay, Round
from segue.text.replay.segments import LoopMemory
from segue.text.replay.walk import Loop, Messages, Walk
from segue.text.template.environment import bounded, compile_tree

_WALK = "segue walk"
"""The filter that marks a loop. No template can name it."""

_UNSTABLE_GLOBALS = ("lipsum", "cycler", "joiner", "strftime_now")
"""Functions that depend on the time or have state, like the filter `random`."""

_NUMBER_TESTS = frozenset(("boolean", "false", "true", "integer", "float", "number"))
_TYPE_TESTS = _NUMBER_TESTS | frozenset(
    ("defined", "undefined", "none", "string", "mapping", "iterable", "sequence", "callable")
)

# After this many in a row, the template is not tried again.
_MAX_REFUSED = 100

_replay: ContextVar[Replay | None] = ContextVar("replay", default=None)


class LocalTemplate:
    """Modifies both `environment`, which belongs to this template alone, and `tree`, its parsed
    program.
    """

    def __init__(self, environment: jinja2.Environment, tree: nodes.Template) -> None:
        for name, function in list(environment.filters.items()):
            environment.filters[name] = _watched(
                cast("Any", function), is_length=name in ("length", "count")
            )
        for name, test in list(environment.tests.items()):
            environment.tests[name] = _watched(cast("Any", test), is_type_test=name in _TYPE_TESTS)
        environment.filters["random"] = _refuse("random")
        for name in _UNSTABLE_GLOBALS:
            environment.globals[name] = _refuse(name)
        environment.filters[_WALK] = _walk
        _mark_loops(tree.body)
        self._template = compile_tree(environment, tree)
        self._num_refused = 0
        # The compiled module creates its loops by this name.
        self._template.root_render_func.__globals__["LoopContext"] = _loop

    def render(
        self,
        variables: Mapping[str, Any],
        num_messages: int,
        message: Callable[[int], JsonObject],
        known: tuple[LoopMemory, ...] = (),
        num_same: int = 0,
    ) -> Replay | None:
        """Renders only the unknown part; None if the template has to be rendered in full."""
        if self._num_refused >= _MAX_REFUSED:
            return None
        replay = Replay(num_messages, message, known, num_same)
        context = self._template.new_context(
            {**variables, "messages": Messages(replay), "namespace": replay.namespace}
        )
        token = _replay.set(replay)
        try:
            for piece in bounded(self._template.root_render_func(context)):
                replay.pieces.append(piece)
        except NotLocal:
            self._num_refused += 1
            return None
        except InvalidRequest:
            raise
        # The full rendering reports the error better.
        except Exception:
            return None
        finally:
            _replay.reset(token)
        if replay.round is not None:
            return None
        self._num_refused = 0
        return replay


def _mark_loops(body: list[nodes.Node]) -> None:
    """Marks loops in statements that emit their text piece by piece."""
    for node in body:
        match node:
            case nodes.For():
                if not (node.recursive or node.test or _breaks(node.body)):
                    node.iter = nodes.Filter(
                        node.iter, _WALK, [], [], None, None, lineno=node.lineno
                    )
                _mark_loops(node.body)
                _mark_loops(node.else_)
            case nodes.If():
                _mark_loops(node.body)
                _mark_loops(list(node.elif_))
                _mark_loops(node.else_)
            case nodes.With() | nodes.Scope() | nodes.ScopedEvalContextModifier():
                _mark_loops(node.body)


def _breaks(body: list[nodes.Node]) -> bool:
    """Whether a loop with this body may end early, which we would not notice."""
    return any(isinstance(node, nodes.Break) or node.find(nodes.Break) for node in body)


def _walk(value: Any) -> Any:
    return value.walk() if isinstance(value, Messages) else value


def _loop(iterable: Any, undefined: Any, recurse: Any = None, depth0: int = 0) -> Any:
    if isinstance(iterable, Walk):
        return Loop(iterable, undefined)
    return LoopContext(iterable, undefined, recurse, depth0)


def _refuse(name: str) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise NotLocal(name)

    return refuse


def _watched(
    function: Callable[..., Any], *, is_length: bool = False, is_type_test: bool = False
) -> Callable[..., Any]:
    """`function`, called with plain numbers in place of `VaryingInt`, and with the messages only to
    count them.
    """

    # Copies the attribute with jinja2's first argument.
    @functools.wraps(function)
    def watched(*args: Any, **kwargs: Any) -> Any:
        for one in args:
            if isinstance(one, Messages | Walk | Loop):
                if is_length and isinstance(one, Messages):
                    return one.num()
                if not (is_type_test and isinstance(one, Messages)):
                    raise NotLocal("the messages, in a filter or test")
                args = tuple([] if each is one else each for each in args)
            elif isinstance(one, VaryingInt):
                args = tuple(exact(each) for each in args)
        kwargs = {name: exact(one) for name, one in kwargs.items()}
        result = function(*args, **kwargs)
        replay = _replay.get()
        if replay is not None and hasattr(result, "__next__"):
            return _Once(result, replay)
        return result

    return watched


class _Once:
    """A generator. Its rest is state, so it must be consumed in the round that created it."""

    __slots__ = ("_generator", "_replay", "_round")

    def __init__(self, generator: Iterator[Any], replay: Replay) -> None:
        self._generator: Iterator[Any] | None = generator
        self._replay = replay
        self._round: Round | None = replay.round

    def __iter__(self) -> Iterator[Any]:
        generator, self._generator = self._generator, None
        if generator is None or self._replay.round is not self._round:
            raise NotLocal("a generator that is used again")
        return generator
