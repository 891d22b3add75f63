"""The sizes at which sums over ranks are compiled ahead of time."""

from segue.kernels.compile_case import CHIPS, CompileCase, of
from segue.kernels.rank_sum.triton import (
    BLOCK,
    BUFFER_BYTES,
    GROUP,
    NUM_WARPS,
    WHOLE,
    exchange_sum_kernel,
    sum_parts_kernel,
)

# A thread moves eight adjacent elements at once.
WIDE = ("ld.global.v4.b32", "st.global.v4.b32")

COMPILE_CASES = (
    CompileCase(
        name="sum of 8 gathered parts",
        kernel=sum_parts_kernel,
        arguments={**of("*bf16", "parts_ptr out_ptr"), **of("i32", "num_groups")},
        constants={"GROUP": GROUP, "NUM_RANKS": 8, "BLOCK_X": BLOCK},
        num_warps=NUM_WARPS,
        instructions=dict.fromkeys(CHIPS, WIDE),
    ),
    *(
        CompileCase(
            name=f"sum over {num_ranks} ranks",
            kernel=exchange_sum_kernel,
            arguments={
                **of("*bf16", "own_ptr out_ptr buffers_ptr"),
                **of("*i64", "distances_ptr"),
                **of("*i32", "flags_ptr rounds_ptr"),
                **of("i32", "num_groups"),
            },
            constants={
                "GROUP": GROUP,
                "RANK": 1,
                "NUM_RANKS": num_ranks,
                "CAPACITY": BUFFER_BYTES // 2,
                "BLOCK_X": BLOCK,
                "PART": WHOLE,
            },
            num_warps=NUM_WARPS,
            # Written before the flags are raised, and read after they were seen.
            instructions=dict.fromkeys(
                CHIPS,
                (
                    *(*WIDE, "ld.global.cg.v4.b32"),
                    *("atom.global.sys.release.exch.b32", "ld.global.sys.acquire.b32"),
                ),
            ),
        )
        for num_ranks in (2, 8)
    ),
)
