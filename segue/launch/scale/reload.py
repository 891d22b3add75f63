"""The effect of a changed configuration file on a running cluster: a table and a pure function."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from segue.api.cluster.fleet import Reloaded, RouterRules
from segue.api.errors import InvalidConfig
from segue.launch.config import Config


class Effect(enum.StrEnum):
    NOW = "at once"
    NEW_WORKERS = "for workers that start from now on"
    RESTART = "only when `segue serve` starts"


_NOW, _NEW, _RESTART = Effect

EFFECTS: Mapping[str, tuple[Effect, Mapping[Effect, frozenset[str]]]] = {
    # The usual effect of each section's settings, and the exceptions.
    "cluster": (
        _RESTART,
        {
            _NOW: frozenset({"prefill", "decode", "ray_autoscales"}),
            _NEW: frozenset(
                {"gpus_per_prefill", "gpus_per_decode", "cpus_per_worker"}
                | {"prefill_on", "decode_on"}
            ),
        },
    ),
    "autoscale": (_NOW, {}),
    "checkpoint": (_RESTART, {}),
    "gateway": (_RESTART, {}),
    "router": (
        _RESTART,
        {_NOW: frozenset({"min_tokens_per_s", "local_prefill_max_tokens", "slow_start_s"})},
    ),
    "security": (_RESTART, {}),
    "engine": (
        # Settings that determine the layout of pages and slots must be equal on all workers.
        _RESTART,
        {
            _NEW: frozenset(
                {"cache_bytes", "host_cache_bytes", "max_running", "max_checkpoints"}
                | {"cores", "num_threads"}
            )
        },
    ),
    "prefill": (_NEW, {}),
    "decode": (_NEW, {}),
    "transfer": (_RESTART, {}),
}


def effect_of(section: str, name: str) -> Effect:
    usual, exceptions = EFFECTS[section]
    return next((effect for effect, names in exceptions.items() if name in names), usual)


@dataclass(frozen=True, slots=True)
class Change:
    section: str
    name: str
    value: Any

    @property
    def effect(self) -> Effect:
        return effect_of(self.section, self.name)

    def __str__(self) -> str:
        return f"[{self.section}] {self.name} = {self.value!r}"


def changes_between(before: Config, after: Config) -> Iterator[Change]:
    for section in fields(Config):
        old, new = getattr(before, section.name), getattr(after, section.name)
        for setting in fields(new):
            if getattr(old, setting.name) != (value := getattr(new, setting.name)):
                yield Change(section.name, setting.name, value)


def reloaded(asked: Config, again: Config, effective: Config) -> tuple[Config, Reloaded]:
    """The configuration for new processes, and the changes. `asked` was read last, `again` was read
    now; `effective` has values in place of "any" and "auto".

    Raises InvalidConfig if a setting has changed that a running cluster cannot change. None is then
    applied, so that the file and the cluster do not differ unnoticed.
    """
    changes = list(changes_between(asked, again))
    if refused := [str(change) for change in changes if change.effect is _RESTART]:
        raise InvalidConfig(
            f"a running cluster cannot change {', '.join(refused)}; nothing was changed: set it "
            "back, or start `segue serve` again"
        )
    sections: dict[str, dict[str, Any]] = {}
    for change in changes:
        sections.setdefault(change.section, {})[change.name] = change.value
    changed = {
        name: replace(getattr(effective, name), **values) for name, values in sections.items()
    }
    return replace(effective, **changed), Reloaded(
        applied=tuple(str(change) for change in changes if change.effect is _NOW),
        for_new_workers=tuple(str(change) for change in changes if change.effect is _NEW),
    )


def rules_of(config: Config) -> RouterRules:
    """The settings that running routers apply."""
    names = (field.name for field in dataclasses.fields(RouterRules))
    return RouterRules(**{name: getattr(config.router, name) for name in names})
