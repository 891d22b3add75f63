"""Where on the way through a prompt a state is worth keeping. Pure.

A recurrent state can be resumed only where it was kept, and a page only where it ends:

    ├ system, tools ┼ … ┼ user ┼ header │ begin of an answer ┤        what a template writes
              ▲             ▲         ▲                ▲ ▲
           opening       parted     the next turn's    again, and the end

A state costs as much memory as thousands of tokens of pages. So there are few for a prompt, and of
two in the same page there is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

# Of one prompt, however long it is: between them others may part, and then a state is kept there.
_MAX_STRIDES = 4
# Of one prompt, whatever is asked for: a state is dear.
_MAX_STATES = 10


def states_wanted(
    branch_points: Sequence[int],
    start: int,
    num_prompt: int,
    *,
    page_tokens: int,
    parted_at: int = 0,
    stride: int | None = None,
) -> tuple[int, ...]:
    """Page boundaries behind `start` and before the prompt's end, those that are needed most first:
    who has room for fewer takes the first ones.

    `branch_points` are positions at which other prompts may part, ascending; the next turn of the
    session most likely at the last of them. `parted_at`: pages of another prompt are equal up to
    there, so a third one may be too. The last boundary is for the same prompt again, whose last
    token has to be computed. With a `stride` there are a few on a long way as well.
    """
    again = (num_prompt - 1) // page_tokens * page_tokens
    wanted = (*reversed(branch_points), again, parted_at, *_strides(start, again, stride))
    aligned = (position // page_tokens * page_tokens for position in wanted)
    positions = dict.fromkeys(at for at in aligned if start < at < num_prompt)
    return tuple(positions)[:_MAX_STATES]


def states_to_go_on_from(
    kept: Iterable[int], branch_points: Sequence[int], num_prompt: int
) -> tuple[int, ...]:
    """Of the states that stay of a turn, those that a next one may go on from, ascending: the
    deepest, and for each position where it may part the deepest before it. The same prompt again
    needs one before its last token.
    """
    kept = sorted(kept)
    useful = set(kept[-1:])
    for point in (*branch_points, num_prompt - 1):
        useful.update([position for position in kept if position <= point][-1:])
    return tuple(sorted(useful))


def _strides(start: int, end: int, stride: int | None) -> Iterable[int]:
    """Multiples of `stride`, or of 2, 4, 8, … times as much on a long way: the same positions for
    prompts that begin the same and end elsewhere."""
    if stride is None:
        return ()
    while (end - start) // stride > _MAX_STRIDES:
        stride *= 2
    return range(start - start % stride + stride, end, stride)
