"""The product of rows with a weight matrix: most of a model's time."""

from __future__ import annotations

from segue.kernels import dispatch
from segue.kernels.product import reference
from segue.kernels.product.reference import Epilogue

__all__ = ["Epilogue", "product"]

product = dispatch.operator(reference.product, "triton", "native")
