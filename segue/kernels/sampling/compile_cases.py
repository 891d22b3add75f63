"""Sampling from Qwen3.5's vocabulary of 248,320 tokens, with all features that a row may use."""

from __future__ import annotations

from typing import Any

from segue.kernels.compile_case import CompileCase, of
from segue.kernels.sampling.triton import CHUNK, draw_kernel, reduce_kernel
from segue.kernels.sampling.triton_few import choose_kernel
from segue.kernels.sampling.triton_list import SLOTS, list_kernel
from segue.kernels.sampling.triton_select import NUM_WARPS, add_up_kernel, finish_kernel

_VOCAB_SIZE = 248_320
_CHUNKS = {"CHUNKS": 1 << (-(-_VOCAB_SIZE // CHUNK) - 1).bit_length()}
_CHUNK = {"CHUNK": CHUNK}


def _case(
    name: str,
    kernel: Any,
    arguments: dict[str, str],
    constants: dict[str, int],
    num_warps: int = NUM_WARPS,
) -> CompileCase:
    return CompileCase(
        name=f"Sampling{name}",
        kernel=kernel,
        arguments=arguments,
        constants=constants,
        aligned=frozenset({"vocab_size"} & {*arguments}),
        num_warps=num_warps,
    )


_LIST = {
    **of("*fp32", "logits_ptr scores_ptr"),
    **of("*i64", "mask_row_ptr slot_ptr pending_ptr top_k_ptr"),
    **of("*fp64", "repetition_ptr presence_ptr frequency_ptr temperature_ptr"),
    **of("i32", "vocab_size num_words num_pending num_chunks"),
}
_LEDGER = {**of("*i32", "masks_ptr counts_ptr"), **of("*fp32", "bias_ptr")}
_LISTS = {**of("*i64", "keys_ptr"), **of("*i32", "tie_ptr")}
_DIGIT = {
    **of("*fp32", "scores_ptr highest_ptr"),
    **of("*fp64", "sums_in_ptr sums_out_ptr numbers_ptr"),
    **of("*i64", "prefix_ptr"),
    **of("i32", "num_rows vocab_size num_chunks shift"),
}
_CUT = {
    **of("*fp32", "highest_ptr"),
    **of("*fp64", "sums_ptr numbers_ptr"),
    **of("*i64", "prefix_ptr key_ptr"),
    **of("*i32", "stay_ptr"),
    **of("i32", "num_chunks"),
}
_TEMPERATURE = of("*fp64", "temperature_ptr")
_BEST = {**of("*fp64", "best_ptr"), **of("*i32", "best_id_ptr")}


def _adjust(uses: bool) -> dict[str, int]:
    return {**dict.fromkeys(("MASKS", "BIAS", "PENALTIES"), uses), **_CHUNK, "SLOTS": SLOTS}


COMPILE_CASES = (
    _case(", masks, bias and penalties", list_kernel, {**_LIST, **_LEDGER}, _adjust(True)),
    _case(
        ", a digit of top-p",
        add_up_kernel,
        {**_DIGIT, **_TEMPERATURE, **of("*fp64", "wanted_ptr"), **of("*i64", "least_ptr")},
        {"PASS": 2, "WEIGHTED": True, **_CHUNK, **_CHUNKS},
    ),
    _case(
        ", the cut of top-p",
        finish_kernel,
        {**_CUT, **_TEMPERATURE},
        {"WEIGHTED": True, **_CHUNKS},
        num_warps=4,
    ),
    _case(
        ", a digit of top-k",
        add_up_kernel,
        {**_DIGIT, **of("*i64", "wanted_ptr")},
        {"PASS": 1, "WEIGHTED": False, **_CHUNK, **_CHUNKS},
    ),
    _case(", the cut of top-k", finish_kernel, _CUT, {"WEIGHTED": False, **_CHUNKS}, num_warps=4),
    _case(
        ", noise",
        draw_kernel,
        {
            **_BEST,
            **_TEMPERATURE,
            **of("*fp32", "scores_ptr highest_ptr"),
            **of("*fp64", "min_p_ptr"),
            **of("*i64", "seed_ptr position_ptr top_k_key_ptr top_p_key_ptr"),
            **of("*i32", "stay_ptr"),
            **of("i32", "vocab_size num_chunks"),
        },
        {"TOP_K": True, "TOP_P": True, "MIN_P": True, **_CHUNK},
    ),
    _case(
        ", best of the chunks",
        reduce_kernel,
        {**_BEST, **of("*i64", "out_ptr"), **of("i32", "vocab_size num_chunks")},
        _CHUNKS,
        num_warps=1,
    ),
    _case(" of few, the best of a chunk", list_kernel, {**_LIST, **_LISTS}, _adjust(False)),
    _case(
        " of few, the best of a chunk, adjusted",
        list_kernel,
        {**_LIST, **_LEDGER, **_LISTS},
        _adjust(True),
    ),
    _case(
        " of few, the choice",
        choose_kernel,
        {
            **_LISTS,
            **_TEMPERATURE,
            **of("*fp32", "logits_ptr scores_ptr"),
            **of("*i64", "mask_row_ptr slot_ptr top_k_ptr seed_ptr position_ptr out_ptr"),
            **of("*fp64", "top_p_ptr min_p_ptr"),
            **of("i32", "vocab_size num_chunks"),
        },
        {**_CHUNK, **_CHUNKS, "SLOTS": SLOTS},
    ),
)
