"""What is compared: the same cluster with one part switched off at a time."""

from __future__ import annotations

import enum
from dataclasses import replace

from segue.launch.config import Config


class Mode(enum.StrEnum):
    EVERYTHING = "everything"
    NO_PULL = "no pull"
    """What decode computed does not come back: prefill computes each answer again."""
    NO_RESIDENCY = "no residency"
    """Decode keeps nothing: every turn ships the whole prefix."""
    NO_PREFIX_CACHE = "no prefix cache"
    """Prefill keeps nothing: every turn computes the whole prompt. Decode keeps its pages."""


def config_of(mode: Mode, config: Config) -> Config:
    match mode:
        case Mode.EVERYTHING:
            return config
        case Mode.NO_PULL:
            return replace(config, prefill=replace(config.prefill, pull=False))
        case Mode.NO_RESIDENCY:
            return replace(config, decode=replace(config.decode, residency=False))
        case Mode.NO_PREFIX_CACHE:
            return replace(config, prefill=replace(config.prefill, prefix_cache=False))
