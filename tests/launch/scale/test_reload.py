"""What a changed file changes in a running cluster: every setting has one effect."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from segue.api.errors import InvalidConfig
from segue.launch.config import Config
from segue.launch.scale.reload import EFFECTS, Effect, effect_of, reloaded, rules_of

ROOT = Path(__file__).parents[3]
ASKED = Config()


def changed(section: str, **values: object) -> Config:
    return replace(ASKED, **{section: replace(getattr(ASKED, section), **values)})  # type: ignore[arg-type]  # sections by name


def test_every_setting_has_an_effect_and_every_exception_exists() -> None:
    sections = {section.name: section for section in fields(Config)}
    assert set(EFFECTS) == set(sections)
    for name, (usual, exceptions) in EFFECTS.items():
        known = {setting.name for setting in fields(getattr(ASKED, name))}
        for effect, names in exceptions.items():
            assert effect is not usual
            assert names <= known, name


def test_operations_lists_what_a_reload_changes() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    page = text.partition("### Reloading the configuration")[2].partition("\n#")[0]
    rows = {line.split("|")[1].strip(): line for line in page.splitlines() if "|" in line}

    for effect in (Effect.NOW, Effect.NEW_WORKERS):
        named = [
            f"`[{section}] {setting.name}`"
            for section in EFFECTS
            for setting in fields(getattr(ASKED, section))
            if effect_of(section, setting.name) is effect and EFFECTS[section][0] is not effect
        ]
        whole = [f"`[{section}]`" for section, (usual, _) in EFFECTS.items() if usual is effect]
        row = rows[str(effect)]
        assert str(Effect.RESTART) in rows
        assert [name for name in (*named, *whole) if name not in row] == []


def test_changes_are_reported_by_their_effect() -> None:
    again = replace(
        changed("router", slow_start_s=3.0),
        cluster=replace(ASKED.cluster, decode=3),
        engine=replace(ASKED.engine, max_running=4),
        prefill=replace(ASKED.prefill, chunk_tokens=99),
    )
    effective = replace(ASKED, engine=replace(ASKED.engine, cache_bytes=1 << 20, num_threads=2))

    config, changes = reloaded(ASKED, again, effective)

    assert changes.applied == ("[cluster] decode = 3", "[router] slow_start_s = 3.0")
    assert changes.for_new_workers == ("[engine] max_running = 4", "[prefill] chunk_tokens = 99")
    # What the launcher has settled stays.
    assert (config.engine.cache_bytes, config.engine.max_running) == (1 << 20, 4)
    assert rules_of(config).slow_start_s == 3.0


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("engine", "page_tokens", 32),
        ("engine", "dtype", "float32"),
        ("cluster", "model", "other"),
        ("cluster", "routers", 2),
        ("router", "port", 7500),
        ("transfer", "verify_checksums", False),
        ("gateway", "port", 9000),
    ],
)
def test_what_cannot_change_is_refused_with_all_else(
    section: str, name: str, value: object
) -> None:
    again = replace(changed(section, **{name: value}), decode=replace(ASKED.decode, max_batch=2))

    with pytest.raises(InvalidConfig, match=rf"cannot change \[{section}\] {name} = .*nothing was"):
        reloaded(ASKED, again, ASKED)


def test_a_file_without_changes_changes_nothing() -> None:
    config, changes = reloaded(ASKED, Config(), ASKED)

    assert config == ASKED
    assert changes.applied + changes.for_new_workers == ()
