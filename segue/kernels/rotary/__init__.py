"""Rotary position embedding of the leading part of each head."""

from __future__ import annotations

from segue.kernels.rotary import reference

__all__ = ["rotary_frequencies", "rotary_tables", "rotate_"]

rotary_frequencies = reference.rotary_frequencies
rotary_tables = reference.rotary_tables
rotate_ = reference.rotate_
