"""Sampling from Qwen3.5's vocabulary of 248,320 tokens, with all features that a row may use."""

from segue.kernels.compile_case import CompileCase, of
from segue.kernels.sampling.triton import CHUNK, draw_kernel, reduce_kernel
from segue.kernels.sampling.triton_adjust import adjust_kernel
from segue.kernels.sampling.triton_few import SLOTS, choose_kernel, list_kernel
from segue.kernels.sampling.triton_select import NUM_WARPS, add_up_kernel, finish_kernel

_VOCAB_SIZE = 248_320
_CHUNKS = 1 << (-(-_VOCAB_SIZE // CHUNK) - 1).bit_length()

_ADJUSTS = {
    **of("*fp32", "logits_ptr scores_ptr bias_ptr"),
    **of("*i64", "mask_row_ptr slot_ptr pending_ptr"),
    **of("*i32", "masks_ptr counts_ptr"),
    **of("*fp64", "repetition_ptr presence_ptr frequency_ptr"),
    **of("i32", "vocab_size num_words num_pending"),
}
_NO_LEDGER: dict[str, object] = dict.fromkeys(("masks_ptr", "bias_ptr", "counts_ptr"))
_LISTS = {
    **of("*i64", "top_k_ptr keys_ptr"),
    **of("*i32", "tie_ptr"),
    **of("*fp64", "temperature_ptr"),
    **of("i32", "num_chunks"),
}

COMPILE_CASES = (
    CompileCase(
        name="Sampling, masks, bias and penalties",
        kernel=adjust_kernel,
        arguments=_ADJUSTS,
        constants={"MASKS": True, "BIAS": True, "PENALTIES": True, "CHUNK": CHUNK},
        aligned=frozenset({"vocab_size"}),
        num_warps=NUM_WARPS,
    ),
    CompileCase(
        name="Sampling, a digit of top-p",
        kernel=add_up_kernel,
        arguments={
            **of("*fp32", "scores_ptr highest_ptr"),
            **of("*fp64", "temperature_ptr wanted_ptr sums_in_ptr sums_out_ptr numbers_ptr"),
            **of("*i64", "least_ptr prefix_ptr"),
            **of("i32", "num_rows vocab_size num_chunks shift"),
        },
        constants={"PASS": 2, "WEIGHTED": True, "CHUNK": CHUNK, "CHUNKS": _CHUNKS},
        aligned=frozenset({"vocab_size"}),
        num_warps=NUM_WARPS,
    ),
    CompileCase(
        name="Sampling, the cut of top-p",
        kernel=finish_kernel,
        arguments={
            **of("*fp32", "highest_ptr"),
            **of("*fp64", "temperature_ptr sums_ptr numbers_ptr"),
            **of("*i64", "prefix_ptr key_ptr"),
            **of("*i32", "stay_ptr"),
            **of("i32", "num_chunks"),
        },
        constants={"WEIGHTED": True, "CHUNKS": _CHUNKS},
        num_warps=4,
    ),
    CompileCase(
        name="Sampling, a digit of top-k",
        kernel=add_up_kernel,
        arguments={
            **of("*fp32", "scores_ptr highest_ptr"),
            **of("*i64", "wanted_ptr prefix_ptr"),
            **of("*fp64", "sums_in_ptr sums_out_ptr numbers_ptr"),
            **of("i32", "num_rows vocab_size num_chunks shift"),
        },
        constants={
            "temperature_ptr": None,
            "least_ptr": None,
            "PASS": 1,
            "WEIGHTED": False,
            "CHUNK": CHUNK,
            "CHUNKS": _CHUNKS,
        },
        aligned=frozenset({"vocab_size"}),
        num_warps=NUM_WARPS,
    ),
    CompileCase(
        name="Sampling, the cut of top-k",
        kernel=finish_kernel,
        arguments={
            **of("*fp32", "highest_ptr"),
            **of("*fp64", "sums_ptr numbers_ptr"),
            **of("*i64", "prefix_ptr key_ptr"),
            **of("*i32", "stay_ptr"),
            **of("i32", "num_rows num_chunks"),
        },
        constants={"temperature_ptr": None, "WEIGHTED": False, "CHUNKS": _CHUNKS},
        num_warps=4,
    ),
    CompileCase(
        name="Sampling, noise",
        kernel=draw_kernel,
        arguments={
            **of("*fp32", "scores_ptr highest_ptr"),
            **of("*fp64", "temperature_ptr min_p_ptr best_ptr"),
            **of("*i64", "seed_ptr position_ptr top_k_key_ptr top_p_key_ptr"),
            **of("*i32", "stay_ptr best_id_ptr"),
            **of("i32", "vocab_size num_chunks"),
        },
        constants={"TOP_K": True, "TOP_P": True, "MIN_P": True, "CHUNK": CHUNK},
        aligned=frozenset({"vocab_size"}),
        num_warps=NUM_WARPS,
    ),
    CompileCase(
        name="Sampling, best of the chunks",
        kernel=reduce_kernel,
        arguments={
            **of("*fp64", "best_ptr"),
            **of("*i32", "best_id_ptr"),
            **of("*i64", "out_ptr"),
            **of("i32", "vocab_size num_chunks"),
        },
        constants={"CHUNKS": _CHUNKS},
        aligned=frozenset({"vocab_size"}),
        num_warps=1,
    ),
    CompileCase(
        name="Sampling of few, the best of a chunk",
        kernel=list_kernel,
        arguments={
            **{name: kind for name, kind in _ADJUSTS.items() if name not in _NO_LEDGER},
            **_LISTS,
        },
        constants={
            **_NO_LEDGER,
            "MASKS": False,
            "BIAS": False,
            "PENALTIES": False,
            "CHUNK": CHUNK,
            "SLOTS": SLOTS,
        },
        aligned=frozenset({"vocab_size"}),
        num_warps=NUM_WARPS,
    ),
    CompileCase(
        name="Sampling of few, the best of a chunk, adjusted",
        kernel=list_kernel,
        arguments={**_ADJUSTS, **_LISTS},
        constants={
            "MASKS": True,
            "BIAS": True,
            "PENALTIES": True,
            "CHUNK": CHUNK,
            "SLOTS": SLOTS,
        },
        aligned=frozenset({"vocab_size"}),
        num_warps=NUM_WARPS,
    ),
    CompileCase(
        name="Sampling of few, the choice",
        kernel=choose_kernel,
        arguments={
            **of("*fp32", "logits_ptr scores_ptr"),
            **of("*i64", "mask_row_ptr slot_ptr keys_ptr top_k_ptr seed_ptr position_ptr out_ptr"),
            **of("*i32", "tie_ptr"),
            **of("*fp64", "temperature_ptr top_p_ptr min_p_ptr"),
            **of("i32", "vocab_size num_chunks"),
        },
        constants={"CHUNK": CHUNK, "CHUNKS": _CHUNKS, "SLOTS": SLOTS},
        aligned=frozenset({"vocab_size"}),
        num_warps=NUM_WARPS,
    ),
)
