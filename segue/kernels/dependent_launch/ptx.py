"""Reads from a kernel's PTX which memory it uses before it waits for earlier kernels.

Follows every path from the kernel's entry up to its `griddepcontrol.wait`. Which memory an
instruction on such a path reads or writes follows from its address, which is computed from one of
the pointers among the kernel's parameters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

WAIT = "griddepcontrol.wait"
_READS = ("ld.global", "ld.volatile.global", "ld.acquire", "ld.relaxed", "cp.async.c", "prefetch")
_WRITES = ("st.global", "st.release", "st.relaxed", "atom", "red.", "cp.async.bulk", "cp.reduce")
_ADDRESS = re.compile(r"\[\s*(%\w+)[^\]]*\]")
_REGISTER = re.compile(r"%\w+")
_PARAMETER = re.compile(r"\[\w+_param_(\d+)")
_LABEL = re.compile(r"(\$[\w$]+):")
_GUARD = re.compile(r"@!?%?\w+\s+")
_TARGET = re.compile(r"\$[\w$]+")
_COMMENT = re.compile(r"//.*|^\s*\.loc\s.*", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Early:
    """What happens on some path before it comes to a wait."""

    reads: frozenset[str]
    """Pointers whose memory is read; where that is not clear, the instruction."""
    writes: frozenset[str]
    ends: bool
    """Whether a path ends without a wait."""

    def faults(self, allowed: frozenset[str]) -> tuple[str, ...]:
        """Descriptions of what a kernel that may read only `allowed` must not do."""
        found = [f"reads {name} before its wait" for name in sorted(self.reads - allowed)]
        found += [f"never reads {name} before its wait" for name in sorted(allowed - self.reads)]
        found += [f"writes {name} before its wait" for name in sorted(self.writes)]
        return (*found, *(["ends without a wait"] if self.ends else []))


@dataclass(frozen=True, slots=True)
class _Instruction:
    text: str
    """Without its guard."""
    is_guarded: bool

    @property
    def is_read(self) -> bool:
        return self.text.startswith(_READS)

    @property
    def address(self) -> str | None:
        """The register with the address in global memory, if it reads or writes there."""
        if not self.text.startswith((*_READS, *_WRITES)) or not _ADDRESS.search(self.text):
            return None
        # An asynchronous copy's first address is in shared memory.
        of_all = _ADDRESS.findall(self.text)
        return str(of_all[-1] if self.text.startswith("cp.async") else of_all[0])


def early(ptx: str, pointers: Mapping[int, str]) -> Early:
    """Of a kernel's PTX. `pointers`: names of those among its parameters, by position."""
    code, places = _code(ptx)
    origins = _origins(code)
    reads, writes = set[str](), set[str]()
    ends = False
    for number in _before_wait(code, places):
        instruction = code[number]
        ends |= _is_end(instruction)
        if (address := instruction.address) is not None:
            names = {pointers[at] for at in origins.get(address, ()) if at in pointers}
            (reads if instruction.is_read else writes).update(names or {instruction.text})
    return Early(frozenset(reads), frozenset(writes), ends)


def _code(ptx: str) -> tuple[list[_Instruction], dict[str, int]]:
    """The instructions of the kernel, and the places of its labels."""
    kernel = _COMMENT.sub("", ptx[ptx.index(".entry") :]).partition(".section")[0]
    body = kernel[kernel.index("{") : kernel.rindex("}")]
    code: list[_Instruction] = []
    places: dict[str, int] = {}
    for piece in body.split(";"):
        # Inline assembly has braces around registers of its own.
        text = piece.strip("{} \t\n")
        while label := _LABEL.match(text):
            places[label[1]] = len(code)
            text = text[label.end() :].strip("{ \t\n")
        if text and not text.startswith("."):
            guard = _GUARD.match(text)
            code.append(_Instruction(text[guard.end() :] if guard else text, guard is not None))
    return code, places


def _origins(code: list[_Instruction]) -> dict[str, set[int]]:
    """Of each register: the parameters that it is computed from. What was read from memory is not
    an address there."""
    steps = []
    for text in (one.text for one in code if not one.is_read):
        target, *sources = _REGISTER.findall(text) or [""]
        if target:
            steps.append((target, sources, {int(at) for at in _PARAMETER.findall(text)}))
    origins: dict[str, set[int]] = {}
    is_new = True
    while is_new:
        is_new = False
        for target, sources, given in steps:
            found = given.union(*(origins[source] for source in sources if source in origins))
            if not found <= origins.setdefault(target, set()):
                origins[target] |= found
                is_new = True
    return origins


def _before_wait(code: list[_Instruction], places: Mapping[str, int]) -> set[int]:
    """The instructions that some path from the entry reaches without a wait."""
    reached, to_do = set[int](), [0]
    while to_do:
        number = to_do.pop()
        if number in reached or number >= len(code):
            continue
        reached.add(number)
        instruction = code[number]
        if instruction.text.startswith("bra"):
            to_do.append(places[_TARGET.findall(instruction.text)[-1]])
        is_left = instruction.text.startswith("bra") or _is_end(instruction)
        if not instruction.text.startswith(WAIT) and (instruction.is_guarded or not is_left):
            to_do.append(number + 1)
    return reached


def _is_end(instruction: _Instruction) -> bool:
    return instruction.text.startswith(("ret", "exit"))
