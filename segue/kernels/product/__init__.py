"""The product of rows with a weight matrix: most of a model's time."""

from __future__ import annotations

from segue.kernels import dispatch
from segue.kernels.product import reference

__all__ = ["product"]

product = dispatch.operator(reference.product, None, "native")
