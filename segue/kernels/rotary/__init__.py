"""Rotary position embedding of the leading part of each head."""

from segue.kernels.rotary.reference import apply_rotary, rotary_tables

__all__ = ["apply_rotary", "rotary_tables"]
