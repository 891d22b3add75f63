"""Router and workers name the same prefixes alike."""

from __future__ import annotations

from array import array

import pytest

from segue.cache.prefix_tree import PrefixTree
from segue.errors import InvalidRequest
from segue.prefix_digest import PageDigests, PrefixName, pack_tokens, unpack_tokens
from segue.types import PageId

PAGE_TOKENS = 4
TOKENS = array("I", range(100, 130))


def test_the_digest_is_the_one_that_is_written_down() -> None:
    name = PageDigests(2).name(array("I", [1, 2, 3, 4]), 2)

    # BLAKE2b-128 of BLAKE2b-128(01000000 02000000) + 03000000 04000000.
    assert name == PrefixName(4, bytes.fromhex("66ca1890a7b0edaee5b40586c64fbba2"))


def test_a_tree_finds_what_a_router_names() -> None:
    tree = PrefixTree(PAGE_TOKENS)
    keys = tree.keys(TOKENS, 7)
    tree.grow(tree.root, keys, [PageId(page) for page in range(7)])
    digests = PageDigests(PAGE_TOKENS)

    for num_pages in (3, 7, 1):
        found = tree.find(digests.name(TOKENS, num_pages))

        assert found == TOKENS[: num_pages * PAGE_TOKENS]


def test_what_was_cut_off_is_not_found() -> None:
    tree = PrefixTree(PAGE_TOKENS)
    nodes = tree.grow(tree.root, tree.keys(TOKENS, 2), [PageId(0), PageId(1)])
    digests = PageDigests(PAGE_TOKENS)

    tree.cut(nodes[-1])

    assert tree.find(digests.name(TOKENS, 2)) is None
    assert tree.find(digests.name(TOKENS, 1)) == TOKENS[:PAGE_TOKENS]


def test_a_digest_with_another_number_of_tokens_is_not_found() -> None:
    tree = PrefixTree(PAGE_TOKENS)
    tree.grow(tree.root, tree.keys(TOKENS, 1), [PageId(0)])
    digest = PageDigests(PAGE_TOKENS).name(TOKENS, 1).digest

    assert tree.find(PrefixName(2 * PAGE_TOKENS, digest)) is None


def test_equal_beginnings_share_their_digests_and_no_more() -> None:
    one = PageDigests(PAGE_TOKENS)
    one.name(TOKENS, 7)
    other_tokens = TOKENS[:9] + array("I", [1] * 21)

    other = one.up_to(9)

    assert other.name(other_tokens, 2) == one.name(TOKENS, 2)
    assert other.name(other_tokens, 3) == PageDigests(PAGE_TOKENS).name(other_tokens, 3)
    assert other.name(other_tokens, 3) != one.name(TOKENS, 3)


def test_tokens_survive_packing() -> None:
    assert unpack_tokens(pack_tokens((1, 2**32 - 1))) == array("I", [1, 2**32 - 1])


def test_a_part_of_a_token_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="4 bytes each, got 5"):
        unpack_tokens(b"12345")


@pytest.mark.parametrize(("num_tokens", "digest"), [(0, b"x" * 16), (16, b"x"), (16, b"")])
def test_a_name_that_names_nothing_is_refused(num_tokens: int, digest: bytes) -> None:
    with pytest.raises(InvalidRequest, match="a prefix is named by"):
        PrefixName(num_tokens, digest)
