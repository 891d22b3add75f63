"""The sizes at which RMS norm is compiled ahead of time."""

from segue.kernels.rms_norm.triton import num_warps, rms_norm_kernel
from segue.kernels.specimen import Specimen

SPECIMENS = tuple(
    Specimen(
        name=f"RMS norm, {width} wide",
        kernel=rms_norm_kernel,
        arguments={
            "x_ptr": "*bf16",
            "weight_ptr": "*bf16",
            "out_ptr": "*bf16",
            "width": "i32",
            "eps": "fp32",
        },
        constants={"BLOCK_H": block},
        aligned=frozenset({"width"}),
        num_warps=num_warps(block),
    )
    for width, block in ((1024, 1024), (5120, 8192))
)
