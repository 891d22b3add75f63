"""Kernels that start before earlier ones have ended, and what their PTX must not do meanwhile."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import segue
from segue.kernels import dependent_launch
from segue.kernels.aot import compile_cases
from segue.kernels.dependent_launch import ARGUMENT
from segue.kernels.dependent_launch.ptx import Early, early
from segue.kernels.dependent_launch.triton import _has_dependent_launches
from segue.kernels.side_stream import SideStream

GPU = torch.device("cuda", 0)
POINTERS = {0: "x_ptr", 1: "weight_ptr", 2: "out_ptr"}
PARAMETERS = """
.visible .entry k(.param .u64 k_param_0, .param .u64 k_param_1, .param .u64 k_param_2) {
  .reg .b64 %rd<9>;
  ld.param.b64 %rd1, [k_param_0];
  ld.param.b64 %rd2, [k_param_1];
  ld.param.b64 %rd3, [k_param_2];
  mul.wide.u32 %rd4, %r1, 4;
"""
WAIT = "griddepcontrol.wait; // dummy %r9\n"
WEIGHT = "add.s64 %rd5, %rd2, %rd4;\n ld.global.v2.b32 { %r2, %r3 }, [ %rd5 + 0 ];\n"
PREFETCH = (
    "{ .reg .pred p; setp.ne.s32 p, %r4, 0; @p prefetch.global.L2 [%rd2]; mov.u32 %r5, 0; }\n"
)
INPUT = "@%p1 cp.async.cg.shared.global [ %r6 + 0 ], [ %rd1 + 64 ], 0x10, %r7;\n"
OUTPUT = "st.global.b32 [ %rd3 + 0 ], { %r2 };\n"


def of(*code: str) -> Early:
    return early(PARAMETERS + "".join(code) + "ret;\n}\n.section .debug { .b8 0 }\n", POINTERS)


@pytest.mark.parametrize("weight", [WEIGHT, PREFETCH])
def test_weights_may_be_read_before_the_wait_and_all_else_after(weight: str) -> None:
    found = of(weight, WAIT, INPUT, OUTPUT)

    assert found == Early(frozenset({"weight_ptr"}), frozenset(), ends=False)
    assert found.faults(frozenset({"weight_ptr"})) == ()


def test_what_is_read_or_written_too_early_is_named() -> None:
    found = of(INPUT, OUTPUT, WAIT, WEIGHT)

    assert found.faults(frozenset({"weight_ptr"})) == (
        "reads x_ptr before its wait",
        "never reads weight_ptr before its wait",
        "writes out_ptr before its wait",
    )


def test_a_kernel_without_a_wait_is_found() -> None:
    assert "ends without a wait" in of(INPUT, OUTPUT).faults(frozenset())


@pytest.mark.parametrize(
    ("code", "ends"),
    [
        # A program that has nothing to do must wait too.
        ("@%p1 bra $L__1;\n", True),
        ("@%p1 bra $L__1;\n bra.uni $L__2;\n", True),
        ("bra.uni $L__2;\n", False),
    ],
)
def test_every_path_must_wait(code: str, ends: bool) -> None:
    found = of(code, "$L__2:\n", WAIT, OUTPUT, "$L__1:\n")

    assert found.ends == ends


def test_an_address_of_unknown_origin_is_not_allowed() -> None:
    (fault,) = of("ld.global.b64 %rd8, [ %rd7 + 0 ];\n", WAIT).faults(frozenset())

    assert "ld.global.b64 %rd8" in fault


def test_an_address_that_a_loop_moves_is_still_the_pointers() -> None:
    loop = "$L__3:\n ld.global.b32 %r2, [ %rd6 ];\n add.s64 %rd6, %rd6, 4;\n @%p2 bra $L__3;\n"

    assert of("mov.b64 %rd6, %rd1;\n", loop, WAIT).reads == {"x_ptr"}


@pytest.fixture
def capability(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[tuple[int, int]], None]]:
    _has_dependent_launches.cache_clear()

    def is_(value: tuple[int, int]) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: value)

    yield is_
    _has_dependent_launches.cache_clear()


def test_launches_depend_from_hopper_on(
    capability: Callable[[tuple[int, int]], None],
) -> None:
    capability((9, 0))

    assert dependent_launch.options(GPU) == {ARGUMENT: True, "launch_pdl": True}
    assert dependent_launch.options(torch.device("cpu")) == {ARGUMENT: False}
    with dependent_launch.off():
        assert dependent_launch.options(GPU) == {ARGUMENT: False}
    assert dependent_launch.options(GPU)[ARGUMENT]


def test_older_gpus_launch_one_kernel_after_the_other(
    capability: Callable[[tuple[int, int]], None],
) -> None:
    capability((8, 9))

    assert dependent_launch.options(GPU) == {ARGUMENT: False}


def test_no_kernel_gets_the_attribute_without_the_constant_that_makes_it_wait() -> None:
    sources = Path(segue.__path__[0]).rglob("*.py")
    setting = {f"{p.parent.name}/{p.name}" for p in sources if "launch_pdl" in p.read_text()}

    assert setting == {"dependent_launch/triton.py", "kernels/aot.py"}


def test_every_kernel_that_is_launched_as_a_dependent_is_compiled_ahead() -> None:
    """So its PTX is read (test_aot.py). As many launches as kernels, in each file."""
    compiled = {case.kernel.fn for case in compile_cases() if ARGUMENT in case.kernel.arg_names}
    launches = [
        name
        for path in Path(segue.__path__[0]).glob("kernels/*/triton*.py")
        for name, arguments in re.findall(
            r"\b(\w*kernel)\[.*?\]\((.*?)\n(?:    ){1,2}\)\n", path.read_text(), re.DOTALL
        )
        if "dependent_launch.options(" in arguments
    ]

    assert sorted(launches) == sorted(kernel.__name__ for kernel in compiled)


@pytest.mark.gpu
def test_captured_dependent_launches_give_the_bits_of_launches_in_order() -> None:
    """Beside a product of cuBLAS and a second stream, thirty times."""
    from segue.kernels.product.triton import product
    from segue.kernels.rms_norm.triton import add_rms_norm

    side = SideStream(GPU)
    x, y = (torch.randn(4, 1024, device=GPU).bfloat16() for _ in range(2))
    weights = [torch.randn(1024, 1024, device=GPU).bfloat16() / 32 for _ in range(8)]
    norm = torch.zeros(1024, device=GPU)

    def step() -> torch.Tensor:
        total, out = add_rms_norm(x, y, norm, eps=1e-6)
        for weight in weights:
            with side.fork():
                beside = product(out, weight)
            here = product(out, weights[0]) @ weight
            side.join()
            total, out = add_rms_norm(total, here + beside, norm, eps=1e-6)
            total, out = add_rms_norm(total, product(out, weight), norm, eps=1e-6)
        return out

    def captured() -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        with torch.cuda.stream(torch.cuda.Stream()):
            step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = step()
        return graph, out

    with dependent_launch.off():
        in_order, expected = captured()
    graph, out = captured()
    for seed in range(30):
        x.normal_(generator=torch.Generator(GPU).manual_seed(seed))
        in_order.replay()
        graph.replay()
        assert torch.equal(out, expected)
