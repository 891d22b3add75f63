"""Our top-level names are unique: no other installed distribution contains them."""

from __future__ import annotations

import importlib.metadata

PACKAGES = {"segue", "router", "prefill_worker", "decode_worker", "kv_transfer"}


def test_no_other_distribution_ships_our_packages() -> None:
    owners = importlib.metadata.packages_distributions()

    assert {name: owners[name] for name in PACKAGES if name in owners} == {
        name: ["segue"] for name in PACKAGES if name in owners
    }
    # An editable install lists no files, so an absent name is also ours; another owner would be
    # listed.
    assert importlib.metadata.version("segue")


def test_proto_is_not_a_package_of_ours() -> None:
    # `proto` is the import name of proto-plus, which ray[default] installs.
    assert "segue" not in importlib.metadata.packages_distributions().get("proto", [])
