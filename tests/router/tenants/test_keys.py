"""Which key is whose, and what a file of keys may have."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from router.config import RouterConfig
from router.tenants.keys import Keyring, keys_in, tenant_of
from router.tenants.tenant import OPEN, Limits, Tenant
from segue.api.api_key import key_hash
from segue.api.errors import InvalidConfig, InvalidRequest, Unauthenticated
from segue.config import read_text
from segue.launch.config import Config, configure

FILE = """
[tenants.acme]
keys = ["sk-one", "sha256:HASH"]
max_turns = 3
tokens_per_minute = 1_000

[tenants.blue]
keys = ["sk-blue"]
""".replace("HASH", hashlib.sha256(b"sk-two").hexdigest())


def keyring(tmp_path: Path, text: str = FILE, **settings: Any) -> Keyring:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    path.chmod(0o600)
    return Keyring(RouterConfig(api_keys_file=str(path), **settings))


def test_without_keys_everybody_is_the_open_tenant() -> None:
    keys = Keyring(RouterConfig())

    assert keys.tenant_of("") is OPEN
    assert keys.tenant_of("anything") is OPEN


def test_a_key_belongs_to_its_tenant(tmp_path: Path) -> None:
    keys = keyring(tmp_path)
    acme = Tenant(name="acme", limits=Limits(max_turns=3, tokens_per_minute=1_000))

    assert keys.tenant_of("sk-one") == keys.tenant_of("sk-two") == acme
    assert keys.tenant_of("sk-blue") == Tenant(name="blue")


@pytest.mark.parametrize("key", ["", "sk-on", "sk-one ", "sk-onee", "SK-ONE", key_hash("sk-one")])
def test_other_keys_are_refused_without_being_quoted(tmp_path: Path, key: str) -> None:
    with pytest.raises(Unauthenticated) as refused:
        keyring(tmp_path).tenant_of(key)

    assert not key or key not in str(refused.value)


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(known: str, asked: str) -> bool:
        compared.append(known)
        return known == asked

    monkeypatch.setattr(hmac, "compare_digest", compare)
    tenants = {key_hash(name): Tenant(name=name) for name in "abc"}

    assert tenant_of(tenants, "a") == Tenant(name="a")
    assert compared == list(tenants)


def test_given_keys_belong_to_the_default_tenant_and_are_kept_as_hashes(tmp_path: Path) -> None:
    config = RouterConfig().with_keys(["sk-a, sk-b", "sk-c", ""])

    assert "sk-" not in repr(config)
    keys = Keyring(config)
    operator = Tenant(name="default", is_operator=True)
    assert {keys.tenant_of(key) for key in ("sk-a", "sk-b", "sk-c")} == {operator}
    with pytest.raises(Unauthenticated):
        keys.tenant_of("sk-a,sk-b")


@pytest.mark.parametrize("is_operator", [False, True])
def test_a_tenant_of_the_file_is_an_operator_only_if_it_says_so(is_operator: bool) -> None:
    operator = f"operator = {str(is_operator).lower()}"
    for text in (operator, "") if not is_operator else (operator,):
        (tenant,) = keys_in(f'[tenants.a]\nkeys = ["sk-a"]\n{text}', "f").values()

        assert tenant.is_operator == is_operator


def test_given_keys_and_a_file_may_be_used_together(tmp_path: Path) -> None:
    keys = keyring(tmp_path, api_key_hashes=key_hash("sk-operator"))

    assert keys.tenant_of("sk-operator").name == "default"
    assert keys.tenant_of("sk-blue").name == "blue"


@pytest.mark.parametrize("key", ["sk ä", "ключ", "a b", "x" * 257, "a\x7f"])
def test_a_key_of_another_form_is_refused_without_being_quoted(key: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        RouterConfig().with_keys([key])

    assert key not in str(refused.value)


def test_the_printed_configuration_has_hashes_and_reads_back() -> None:
    config = configure(None, {"router": {"port": 0}}, api_keys=["sk-a,sk-b"])

    printed = config.to_toml()

    assert "sk-" not in printed
    assert key_hash("sk-a") in printed
    assert Config.from_sections(read_text(printed, "printed")) == config


SECRET = "sk-secret"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"\[tenants.NAME\] with keys"),
        (f'keys = ["{SECRET}"]', "a file of keys has tables"),
        (f'[tenants]\n{SECRET} = "acme"', "a tenant has no list of keys"),
        (f'[tenants.acme]\nkeys = "{SECRET}"', "a tenant has no list of keys"),
        ("[tenants.acme]\nmax_turns = 3", "a tenant has no list of keys"),
        (f'[tenants.acme]\nkeys = ["{SECRET}"]\nburst = 3', "has no 'burst'"),
        (f'[tenants.acme]\nkeys = ["{SECRET}"]\nmax_turns = -1', "max_turns must be >= 0"),
        (f'[tenants.acme]\nkeys = ["{SECRET}"]\nmax_turns = "3"', "max_turns must be an integer"),
        (f'[tenants.acme]\nkeys = ["{SECRET} {SECRET}"]', "printable ASCII"),
        (f'[tenants.acme]\nkeys = ["sha256:{SECRET}"]', "64 hex digits"),
        ("[tenants.acme]\nkeys = [3]", "must have texts"),
        (f'[tenants."a/b"]\nkeys = ["{SECRET}"]', "a tenant's name must"),
        (f'[tenants.acme]\nkeys = ["{SECRET}"\n', "is not valid TOML at"),
        (f'[tenants.a]\nkeys=["{SECRET}"]\n[tenants.b]\nkeys=["{SECRET}"]', "give each tenant"),
    ],
)
def test_a_bad_file_is_explained_without_quoting_a_key(text: str, words: str) -> None:
    with pytest.raises(InvalidConfig, match=words) as refused:
        keys_in(text, "keys.toml")

    assert SECRET not in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"cannot read the API keys in .*none\.toml"):
        Keyring(RouterConfig(api_keys_file=str(tmp_path / "none.toml")))


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    keys = keyring(tmp_path)
    path = tmp_path / "keys.toml"
    path.write_text('[tenants.acme]\nkeys = ["sk-new"]\n')

    keys.reread()

    assert keys.tenant_of("sk-new") == Tenant(name="acme")
    with pytest.raises(Unauthenticated):
        keys.tenant_of("sk-one")


@pytest.mark.parametrize("text", [None, "[tenants.acme]", ""])
def test_a_file_that_went_bad_changes_nothing(
    tmp_path: Path, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    keys = keyring(tmp_path)
    path = tmp_path / "keys.toml"
    path.unlink() if text is None else path.write_text(text)

    keys.reread()

    assert keys.tenant_of("sk-one").name == "acme"
    assert "the old API keys stay in effect" in caplog.text


def test_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    keys = keyring(tmp_path)
    path = tmp_path / "keys.toml"
    path.chmod(0)
    before = keys._tenants

    keys.reread()

    assert keys._tenants is before


def test_a_file_that_others_may_read_is_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keyring(tmp_path)
    assert "chmod o-r" not in caplog.text
    path = tmp_path / "keys.toml"
    os.chmod(path, 0o644)

    with caplog.at_level(logging.WARNING):
        Keyring(RouterConfig(api_keys_file=str(path)))

    assert "chmod o-r" in caplog.text
