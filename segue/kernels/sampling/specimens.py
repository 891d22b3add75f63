"""Sampling from Qwen3.5's vocabulary of 248,320 tokens, with all that a row may ask for."""

from segue.kernels.sampling.triton import CHUNK, adjust_kernel, draw_kernel, reduce_kernel
from segue.kernels.sampling.triton_select import NUM_WARPS, add_up_kernel, finish_kernel
from segue.kernels.specimen import Specimen

_VOCAB_SIZE = 248_320
_CHUNKS = 1 << (-(-_VOCAB_SIZE // CHUNK) - 1).bit_length()

SPECIMENS = (
    Specimen(
        name="Sampling, bias and penalties",
        kernel=adjust_kernel,
        arguments={
            "logits_ptr": "*fp32",
            "scores_ptr": "*fp32",
            "slot_ptr": "*i64",
            "bias_ptr": "*fp32",
            "counts_ptr": "*i32",
            "repetition_ptr": "*fp64",
            "presence_ptr": "*fp64",
            "frequency_ptr": "*fp64",
            "pending_ptr": "*i64",
            "vocab_size": "i32",
            "num_pending": "i32",
        },
        constants={"BIAS": True, "PENALTIES": True, "CHUNK": CHUNK},
        aligned=frozenset({"vocab_size"}),
        num_warps=NUM_WARPS,
    ),
    Specimen(
        name="Sampling, a digit of top-p",
        kernel=add_up_kernel,
        arguments={
            "scores_ptr": "*fp32",
            "highest_ptr": "*fp32",
            "temperature_ptr": "*fp64",
            "wanted_ptr": "*fp64",
            "least_ptr": "*i64",
            "sums_in_ptr": "*fp64",
            "sums_out_ptr": "*fp64",
            "prefix_ptr": "*i64",
            "numbers_ptr": "*fp64",
            "num_rows": "i32",
            "vocab_size": "i32",
            "num_chunks": "i32",
            "shift": "i32",
        },
        constants={"PASS": 2, "WEIGHTED": True, "CHUNK": CHUNK, "CHUNKS": _CHUNKS},
        aligned=frozenset({"vocab_size"}),
        num_warps=NUM_WARPS,
    ),
    Specimen(
        name="Sampling, the cut of top-p",
        kernel=finish_kernel,
        arguments={
            "highest_ptr": "*fp32",
            "temperature_ptr": "*fp64",
            "sums_ptr": "*fp64",
            "prefix_ptr": "*i64",
            "numbers_ptr": "*fp64",
            "key_ptr": "*i64",
            "stay_ptr": "*i32",
            "num_chunks": "i32",
        },
        constants={"WEIGHTED": True, "CHUNKS": _CHUNKS},
        num_warps=4,
    ),
    Specimen(
        name="Sampling, noise",
        kernel=draw_kernel,
        arguments={
            "scores_ptr": "*fp32",
            "highest_ptr": "*fp32",
            "temperature_ptr": "*fp64",
            "seed_ptr": "*i64",
            "position_ptr": "*i64",
            "top_k_key_ptr": "*i64",
            "top_p_key_ptr": "*i64",
            "stay_ptr": "*i32",
            "min_p_ptr": "*fp64",
            "best_ptr": "*fp64",
            "best_id_ptr": "*i32",
            "vocab_size": "i32",
            "num_chunks": "i32",
        },
        constants={"TOP_K": True, "TOP_P": True, "MIN_P": True, "CHUNK": CHUNK},
        aligned=frozenset({"vocab_size"}),
        num_warps=NUM_WARPS,
    ),
    Specimen(
        name="Sampling, best of the chunks",
        kernel=reduce_kernel,
        arguments={
            "best_ptr": "*fp64",
            "best_id_ptr": "*i32",
            "out_ptr": "*i64",
            "vocab_size": "i32",
            "num_chunks": "i32",
        },
        constants={"CHUNKS": _CHUNKS},
        aligned=frozenset({"vocab_size"}),
        num_warps=1,
    ),
)
