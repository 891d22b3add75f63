"""What gateways keep in the router for each other: bounded, and each owner's own."""

from __future__ import annotations

from router.documents import Document, DocumentStore
from tests.router.placed import ManualClock

MANY = 1 << 20


def kept(store: DocumentStore, owner: str, names: str) -> str:
    return "".join(name for name in names if store.fetch(owner, ("g", name), alone=True))


def keep(store: DocumentStore, owner: str, name: str, *, size: int = 0, after: str = "") -> bool:
    return store.keep(owner, ("g", name), Document(b"x" * size, after))


def test_a_document_comes_with_those_before_it() -> None:
    store = DocumentStore(MANY, 60.0)
    for name, after in (("a", ""), ("b", "a"), ("c", "b")):
        store.keep("", ("g", name), Document(name.encode(), after))

    def fetched(name: str, *, alone: bool = False) -> list[bytes]:
        return [one.content for one in store.fetch("", ("g", name), alone=alone)]

    assert fetched("c") == [b"a", b"b", b"c"]
    assert fetched("c", alone=True) == [b"c"]
    assert store.delete("", ("g", "b"))
    assert not store.delete("", ("g", "b"))
    assert (fetched("c"), fetched("a")) == ([], [b"a"])


def test_documents_that_follow_each_other_in_a_circle_are_none() -> None:
    store = DocumentStore(MANY, 60.0)
    keep(store, "", "a", after="b")
    keep(store, "", "b", after="a")

    assert store.fetch("", ("g", "a")) == []


def test_an_owner_finds_only_its_own() -> None:
    store = DocumentStore(MANY, 60.0)
    keep(store, "a/", "x")

    assert store.fetch("b/", ("g", "x")) == []
    assert not store.delete("b/", ("g", "x"))
    assert store.fetch("a/", ("other", "x")) == []
    assert kept(store, "a/", "x") == "x"


def test_the_least_recently_used_of_the_largest_owner_goes_first() -> None:
    store = DocumentStore(10_000, 60.0)
    keep(store, "small/", "s")
    for name in "abcd":
        keep(store, "large/", name, size=1_000)
    kept(store, "large/", "a")
    keep(store, "large/", "e", size=1_000)

    assert kept(store, "large/", "abcde") == "acde"
    assert kept(store, "small/", "s") == "s"
    assert store.num_bytes <= 10_000


def test_replacing_a_document_counts_it_once() -> None:
    store = DocumentStore(MANY, 60.0)
    for _ in range(3):
        keep(store, "", "a", size=500)

    assert store.num_bytes == 1_500
    store.delete("", ("g", "a"))
    assert store.num_bytes == 0


def test_one_that_is_too_large_replaces_nothing() -> None:
    store = DocumentStore(5_000, 60.0)
    keep(store, "", "a")

    assert not keep(store, "", "b", size=5_000)
    assert not DocumentStore(0, 60.0).keep("", ("g", "a"), Document(b""))
    assert kept(store, "", "ab") == "a"


def test_documents_go_when_they_have_not_been_used() -> None:
    clock = ManualClock(0.0)
    store = DocumentStore(MANY, 60.0, clock)
    keep(store, "", "a")
    keep(store, "", "b")
    clock.now = 40.0
    kept(store, "", "a")
    clock.now = 80.0

    assert kept(store, "", "ab") == "a"
    clock.now = 200.0
    assert kept(store, "", "a") == ""
    assert store.num_bytes == 0
