"""The compared modes: the same cluster with one feature switched off at a time."""

from __future__ import annotations

import enum
from dataclasses import replace

from segue.launch.config import Config


class Mode(enum.StrEnum):
    EVERYTHING = "everything"
    NO_LOCAL = "no local prefill"
    """Prefill workers compute everything new, and ship it."""
    NO_PULL = "no pull"
    """As above, and tokens that decode computed do not come back: prefill computes them again."""
    NO_RESIDENCY = "no residency"
    """Decode keeps nothing: every turn ships the whole prefix."""
    NO_PREFIX_CACHE = "no prefix cache"
    """Prefill keeps nothing: every turn computes the whole prompt. Decode keeps its pages, so only
    new pages are shipped.
    """


def config_of(mode: Mode, config: Config) -> Config:
    match mode:
        case Mode.EVERYTHING:
            return config
        case Mode.NO_LOCAL:
            return without_local(config)
        case Mode.NO_PULL:
            return without_local(replace(config, prefill=replace(config.prefill, pull=False)))
        case Mode.NO_RESIDENCY:
            return replace(config, decode=replace(config.decode, residency=False))
        case Mode.NO_PREFIX_CACHE:
            prefill = replace(config.prefill, prefix_cache=False)
            return without_local(replace(config, prefill=prefill))


def without_local(config: Config) -> Config:
    return replace(config, router=replace(config.router, local_prefill_max_tokens=0))
