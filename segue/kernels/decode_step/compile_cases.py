"""The bookkeeping of a step with rings of five slots: three drafts at most."""

from segue.kernels.compile_case import CompileCase, of
from segue.kernels.decode_step.triton_close import add_draft_kernel, close_kernel
from segue.kernels.decode_step.triton_open import PAGES_AT_ONCE, open_kernel

_RING = {"NUM_SLOTS": 5, "BLOCK_S": 8}
_OPENED = of("*i64", "row_ids_ptr integers_ptr pages_ptr drafts_ptr sampling_ptr out_ptr")

COMPILE_CASES = (
    *(
        CompileCase(
            name=f"decode step, opened{name}",
            kernel=open_kernel,
            arguments={
                **_OPENED,
                **of("*fp64", "numbers_ptr numbers_out_ptr"),
                **of("*i64", "pending_ptr page_table_ptr"),
                **of("i32", "num_sequences num_rounds num_pages num_integers max_pages max_drafts"),
                **of("i32", "page_tokens scratch_page scratch_slot field_stride"),
            },
            constants={**_RING, "HAS_DRAFTS": has_drafts, "BLOCK_P": PAGES_AT_ONCE},
            aligned=frozenset({"page_tokens"}),
            num_warps=1,
        )
        for name, has_drafts in (("", False), (" with drafts", True))
    ),
    CompileCase(
        name="decode step, a draft",
        kernel=add_draft_kernel,
        arguments={
            **of("*i64", "drawn_ptr row_ids_ptr num_tokens_ptr tokens_ptr pending_ptr drafts_ptr"),
            **of("i32", "num_sequences num_rounds max_drafts depth"),
        },
        num_warps=1,
    ),
    *(
        CompileCase(
            name=f"decode step, closed{name}",
            kernel=close_kernel,
            arguments={
                **of("*i64", "targets_ptr row_ids_ptr num_tokens_ptr tokens_ptr slots_out_ptr"),
                **of("*i64", "slot_ptr integers_ptr result_ptr"),
                **(of("*i32", "counts_ptr") if counts else {}),
                **of("i32", "num_sequences num_rounds num_integers page_tokens vocab_size"),
            },
            constants={
                **_RING,
                "COUNTS": counts,
            },
            aligned=frozenset({"page_tokens", "vocab_size"}),
            num_warps=1,
        )
        for name, counts in (("", False), (" with counts", True))
    ),
)
