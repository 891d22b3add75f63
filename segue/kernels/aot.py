"""Compile every kernel ahead of time for its target chips; no GPU is needed.

    python -m segue.kernels.aot                           a line of JSON for each kernel and chip
    python -m segue.kernels.aot --write docs/kernels.md   updates the table there

An operator with kernels lists the sizes that are served in its `compile_cases.py`. The compiler
reports registers, shared memory, spills and the chosen instructions before any chip runs them. For
speed, run `python -m benchmarks.gpu`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

from segue.kernels import dependent_launch
from segue.kernels.compile_case import BLACKWELL_ULTRA, CHANGING, CHIPS, CompileCase
from segue.kernels.dependent_launch import ptx

_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)")
_THREADS = 32
_BEGIN = "<!-- begin of python -m segue.kernels.aot --write -->\n"
_END = "<!-- end -->"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """The result of compiling one compile case for one chip."""

    name: str
    chip: str
    registers: int
    """Per thread."""
    stack_bytes: int
    """Per thread: local memory, where spilled registers go."""
    shared_bytes: int
    """Per program, including what is allocated at launch."""
    num_warps: int
    missing: tuple[str, ...]
    """Expected instructions that the PTX does not contain."""
    specialised: tuple[str, ...]
    """Arguments whose values would make a launch compile again while serving."""
    too_early: tuple[str, ...]
    """What it does before it waits for earlier kernels, and must not."""

    def faults(self, case: CompileCase) -> tuple[str, ...]:
        """Descriptions of what differs from the case; empty if nothing does."""
        found = [f"no {instruction} in its PTX" for instruction in self.missing]
        if self.stack_bytes > case.max_stack_bytes:
            found.append(
                f"{self.stack_bytes} bytes of local memory, allowed {case.max_stack_bytes}"
            )
        if self.specialised:
            found.append(f"specialised for {self.specialised}, which change from pass to pass")
        return (*found, *self.too_early)


def compile_cases() -> tuple[CompileCase, ...]:
    """The compile cases of all operators that have kernels, sorted by operator name."""
    here = Path(__file__).parent
    modules = [
        importlib.import_module(f"segue.kernels.{path.parent.name}.compile_cases")
        for path in sorted(here.glob("*/compile_cases.py"))
    ]
    return tuple(case for module in modules for case in module.COMPILE_CASES)


def compile_for(case: CompileCase, chip: str) -> Compiled:
    """Raises the compiler's error if the kernel cannot be built for `chip`."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = list(case.kernel.arg_names)
    # As on a GPU of these kinds.
    is_dependent = dependent_launch.ARGUMENT in names
    constants = {
        **case.all_constants,
        **({dependent_launch.ARGUMENT: True} if is_dependent else {}),
    }
    types = {**case.arguments, **dict.fromkeys(constants, "constexpr")}
    # A launch detects this by itself: torch's memory starts at multiples of 16 bytes.
    aligned = [name for name, kind in types.items() if kind[0] == "*" or name in case.aligned]
    source = ASTSource(
        fn=case.kernel,
        signature={name: types[name] for name in names},
        constexprs=constants,
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    options = {
        "num_warps": case.num_warps,
        "num_stages": case.num_stages,
        "launch_pdl": is_dependent,
    }
    target = GPUTarget("cuda", {**CHIPS, **BLACKWELL_ULTRA}[chip], _THREADS)
    kernel = triton.compile(source, target=target, options=options)
    registers, stack_bytes, static_bytes = _resource_usage(kernel.asm["cubin"])
    wanted = case.instructions.get(chip, ())
    free = {p.name for p in case.kernel.params if p.do_not_specialize}
    return Compiled(
        name=case.name,
        chip=chip,
        registers=registers,
        stack_bytes=stack_bytes,
        shared_bytes=static_bytes + kernel.metadata.shared,
        num_warps=kernel.metadata.num_warps,
        missing=tuple(text for text in wanted if text not in kernel.asm["ptx"]),
        specialised=tuple(name for name in names if name in CHANGING and name not in free),
        too_early=_too_early(case, kernel.asm["ptx"]) if is_dependent else (),
    )


def compile_all(num_processes: int) -> Iterator[Compiled]:
    """Every compile case on each of its chips, in order."""
    from triton.runtime.cache import triton_key

    # Reads Triton's libraries, half a gigabyte, once instead of once in each process.
    triton_key()
    todo = [(i, chip) for i, case in enumerate(compile_cases()) for chip in case.chips]
    # Forked, so that only this process imports torch and the kernels. It must not have compiled
    # any: compilers keep threads, which a forked child would not have.
    with ProcessPoolExecutor(num_processes, mp_context=get_context("fork")) as pool:
        yield from pool.map(_compile_one, todo)


def table(compiled: Sequence[Compiled]) -> str:
    """A Markdown table with a line per case and a column per chip."""
    lines = [
        "| kernel | warps | " + " | ".join(f"{chip}: registers, shared, local" for chip in CHIPS),
        "| --- " * (1 + len(CHIPS)) + "| ---",
    ]
    by_name: dict[str, dict[str, Compiled]] = {}
    for one in compiled:
        by_name.setdefault(one.name, {})[one.chip] = one
    for name, chips in by_name.items():
        warps = next(iter(chips.values())).num_warps
        cells = [
            f"{one.registers}, {one.shared_bytes / 1024:.1f} KiB, {one.stack_bytes} B"
            if one
            else "not used"
            for one in map(chips.get, CHIPS)
        ]
        lines.append(f"| {name} | {warps} | " + " | ".join(cells))
    return "".join(f"{line} |\n" for line in lines)


def with_table(page: str, compiled: Sequence[Compiled]) -> str:
    """The page with its table replaced."""
    before, rest = page.split(_BEGIN)
    return f"{before}{_BEGIN}{table(compiled)}{_END}{rest.split(_END)[1]}"


def _compile_one(which: tuple[int, str]) -> Compiled:
    index, chip = which
    return compile_for(compile_cases()[index], chip)


def _too_early(case: CompileCase, compiled: str) -> tuple[str, ...]:
    passed = [name for name in case.kernel.arg_names if name in case.arguments]
    pointers = {at: name for at, name in enumerate(passed) if case.arguments[name][0] == "*"}
    return ptx.early(compiled, pointers).faults(case.early)


def _resource_usage(cubin: bytes) -> tuple[int, int, int]:
    """Registers and bytes of local memory per thread, and bytes of static shared memory."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    usage = _USAGE.search(printed)
    assert usage is not None, f"no register usage in cuobjdump's output: {printed}"
    registers, stack_bytes, shared_bytes = map(int, usage.groups())
    return registers, stack_bytes, shared_bytes


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m segue.kernels.aot", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="page with the table")
    page = parser.parse_args().write
    compiled = []
    for one in compile_all(os.cpu_count() or 1):
        compiled.append(one)
        sys.stdout.write(f"{json.dumps(asdict(one))}\n")
    if page is not None:
        page.write_text(with_table(page.read_text(), compiled))


if __name__ == "__main__":
    main()
