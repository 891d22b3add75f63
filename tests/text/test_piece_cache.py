from __future__ import annotations

from array import array

from segue.text.tokens.piece_cache import PieceCache


def test_a_piece_is_remembered() -> None:
    cache = PieceCache()

    cache.put("hello", array("I", [1, 2]))

    assert cache.get("hello") == array("I", [1, 2])
    assert cache.get("world") is None


def test_the_least_recently_used_piece_is_evicted() -> None:
    cache = PieceCache(max_characters=6)
    cache.put("aaa", array("I", [1]))
    cache.put("bbb", array("I", [2]))
    cache.get("aaa")

    cache.put("ccc", array("I", [3]))

    assert cache.get("bbb") is None
    assert cache.get("aaa") is not None
    assert cache.get("ccc") is not None


def test_a_piece_larger_than_the_cache_leaves_it_empty_and_usable() -> None:
    cache = PieceCache(max_characters=4)
    cache.put("aaaaa", array("I", [1]))

    cache.put("bb", array("I", [2]))

    assert cache.get("aaaaa") is None
    assert cache.get("bb") is not None


def test_putting_a_piece_twice_counts_it_once() -> None:
    cache = PieceCache(max_characters=4)
    for _ in range(3):
        cache.put("aa", array("I", [1]))

    cache.put("bb", array("I", [2]))

    assert cache.get("aa") is not None
