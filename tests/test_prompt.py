"""A prompt's page keys and digests: router and workers compute the same names."""

from __future__ import annotations

import hashlib
import struct
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.api.errors import InvalidRequest
from segue.api.prompt import (
    MediaSpan,
    PageDigests,
    PrefixName,
    Prompt,
    pack_tokens,
    salt_of,
    unpack_tokens,
)
from segue.api.types import PageId
from segue.cache.prefix.tree import PrefixTree

PAGE_TOKENS = 4
PROMPT = Prompt(range(100, 130))
CAT, DOG = (hashlib.sha256(name).digest() for name in (b"cat", b"dog"))
PAD = 7


def with_image(digest: bytes, *, start: int = 6, num_tokens: int = 7) -> Prompt:
    """30 tokens, some of which are an image's placeholders."""
    tokens = list(range(100, 130))
    tokens[start : start + num_tokens] = [PAD] * num_tokens
    return Prompt(tokens, [MediaSpan(start, num_tokens, digest)])


def grown(prompt: Prompt, num_pages: int) -> PrefixTree:
    tree = PrefixTree(PAGE_TOKENS)
    keys = prompt.page_keys(PAGE_TOKENS, num_pages)
    tree.grow(tree.root, keys, [PageId(page) for page in range(num_pages)])
    return tree


def test_the_digest_is_the_documented_one() -> None:
    name = PageDigests(2).name(Prompt([1, 2, 3, 4]), 2)

    # BLAKE2b-128 of BLAKE2b-128(01000000 02000000) + 03000000 04000000.
    assert name == PrefixName(4, bytes.fromhex("66ca1890a7b0edaee5b40586c64fbba2"))


def test_the_key_of_a_page_with_an_image_is_the_documented_one() -> None:
    prompt = Prompt([1, 7, 7, 7], [MediaSpan(1, 3, CAT)])

    assert prompt.page_keys(2, 2) == [
        struct.pack("<II", 1, 7) + struct.pack("<qI", 1, 3) + CAT,
        struct.pack("<II", 7, 7) + struct.pack("<qI", -1, 3) + CAT,
    ]


def test_a_tree_finds_a_prefix_that_a_router_names() -> None:
    for prompt in (PROMPT, with_image(CAT)):
        tree = grown(prompt, 7)
        digests = PageDigests(PAGE_TOKENS)

        for num_pages in (3, 7, 1):
            found = tree.find(digests.name(prompt, num_pages))

            assert found == prompt[: num_pages * PAGE_TOKENS]


def test_the_salt_is_in_the_first_key_and_so_in_all_digests() -> None:
    salt = salt_of("acme", "")
    salted, plain = PROMPT.salted(salt), PROMPT

    # BLAKE2b-128 of 00…04 "acme" 00…00.
    assert salt == bytes.fromhex("5587012eac822b5f4770f14abe9dbd94")
    keys = salted.page_keys(PAGE_TOKENS, 7)
    assert keys[0] == plain.page_keys(PAGE_TOKENS, 1)[0] + salt
    assert keys[1:] == plain.page_keys(PAGE_TOKENS, 7)[1:]
    names = [PageDigests(PAGE_TOKENS).name(one, 7) for one in (salted, plain)]
    assert names[0].digest != names[1].digest


def test_prompts_with_different_salts_share_nothing() -> None:
    one, other = (with_image(CAT).salted(salt_of(name)) for name in ("acme", "blue"))
    tree = grown(one, 7)

    assert one.num_common(other, start=3) == 0
    assert one != other
    assert tree.walk(tree.root, other.page_keys(PAGE_TOKENS, 7)) == []
    assert len(tree.walk(tree.root, one.page_keys(PAGE_TOKENS, 7))) == 7
    found = tree.find(PageDigests(PAGE_TOKENS).name(one, 7))
    assert found == one[:28]


def test_no_text_makes_no_salt_and_different_texts_make_different_ones() -> None:
    assert salt_of() == salt_of("") == salt_of("", "") == b""
    pairs = [("a", ""), ("", "a"), ("a", "b"), ("ab", ""), ("", "ab"), ("b", "a")]
    assert len({salt_of(*pair) for pair in pairs}) == len(pairs)


def test_an_evicted_prefix_is_not_found() -> None:
    tree = grown(PROMPT, 2)
    digests = PageDigests(PAGE_TOKENS)
    (leaf,) = [node for node in tree.nodes() if not node.children]

    tree.cut(leaf)

    assert tree.find(digests.name(PROMPT, 2)) is None
    assert tree.find(digests.name(PROMPT, 1)) == PROMPT[:PAGE_TOKENS]


def test_a_digest_with_another_number_of_tokens_is_not_found() -> None:
    tree = grown(PROMPT, 1)
    digest = PageDigests(PAGE_TOKENS).name(PROMPT, 1).digest

    assert tree.find(PrefixName(2 * PAGE_TOKENS, digest)) is None


def test_prompts_share_the_digests_of_their_common_prefix_only() -> None:
    one = PageDigests(PAGE_TOKENS)
    one.name(PROMPT, 7)
    other_prompt = PROMPT[:9] + [1] * 21

    other = one.up_to(9)

    assert other.name(other_prompt, 2) == one.name(PROMPT, 2)
    assert other.name(other_prompt, 3) == PageDigests(PAGE_TOKENS).name(other_prompt, 3)
    assert other.name(other_prompt, 3) != one.name(PROMPT, 3)


def test_two_images_with_equal_placeholders_share_only_the_pages_before_them() -> None:
    cat, dog = with_image(CAT), with_image(DOG)
    assert cat.tokens == dog.tokens
    tree = grown(cat, 7)

    # The first token of the image is on page 1.
    found = tree.walk(tree.root, dog.page_keys(PAGE_TOKENS, 7))
    names = [PageDigests(PAGE_TOKENS).name(prompt, 4) for prompt in (cat, dog)]

    assert len(found) == 1
    assert len(tree.walk(tree.root, cat.page_keys(PAGE_TOKENS, 7))) == 7
    assert names[0] != names[1]
    assert cat.num_common(dog) == 6
    assert cat.num_common(Prompt(cat.tokens)) == 6


def test_the_same_image_two_tokens_later_has_other_keys() -> None:
    early = Prompt([PAD] * 12, [MediaSpan(0, 6, CAT)])
    late = Prompt([PAD] * 12, [MediaSpan(2, 6, CAT)])

    assert not set(early.page_keys(PAGE_TOKENS, 3)[:2]) & set(late.page_keys(PAGE_TOKENS, 3)[:2])
    assert early.num_common(late) == 0


@st.composite
def prompts(draw: st.DrawFn) -> Prompt:
    """Prompts with up to three images, some of them adjacent."""
    tokens: list[int] = []
    media = []
    for digest in draw(st.lists(st.sampled_from([CAT, DOG]), max_size=3)):
        tokens += draw(st.lists(st.integers(0, 2), max_size=6))
        num_tokens = draw(st.integers(1, 9))
        media.append(MediaSpan(len(tokens), num_tokens, digest))
        tokens += [PAD] * num_tokens
    salt = draw(st.sampled_from([b"", b"", salt_of("a"), salt_of("b")]))
    return Prompt(tokens + draw(st.lists(st.integers(0, 2), max_size=6)), media, salt)


@given(prompts(), st.integers(0, 30))
def test_a_prompt_cut_in_two_and_joined_is_the_same(prompt: Prompt, at: int) -> None:
    assert prompt[:at] + prompt[at:] == prompt


@given(prompts(), st.integers(0, 8), st.integers(1, 5))
def test_the_keys_of_a_slice_are_those_of_its_pages(
    prompt: Prompt, first: int, page_tokens: int
) -> None:
    num_pages = len(prompt) // page_tokens
    keys = prompt.page_keys(page_tokens, num_pages)

    rest = prompt[first * page_tokens :]

    assert rest.page_keys(page_tokens, max(num_pages - first, 0)) == keys[first:]


@given(prompts(), st.integers(1, 5))
def test_a_prompt_can_be_restored_from_its_keys(prompt: Prompt, page_tokens: int) -> None:
    num_pages = len(prompt) // page_tokens
    keys = prompt.page_keys(page_tokens, num_pages)

    # Without a page there is no key, and nothing has the salt.
    expected = prompt[: num_pages * page_tokens] if keys else Prompt()
    assert Prompt.from_page_keys(keys, page_tokens) == expected


@given(prompts(), prompts(), st.data())
def test_the_common_prefix_equals_a_token_by_token_comparison(
    one: Prompt, other: Prompt, data: st.DataObject
) -> None:
    def meaning(prompt: Prompt, at: int) -> tuple[object, ...]:
        spans = [(s.start, s.num_tokens, s.digest) for s in prompt.media if s.start <= at < s.end]
        return (prompt[at], *spans)

    expected = 0
    if one.salt != other.salt:
        assert one.num_common(other) == 0
        return
    while expected < min(len(one), len(other)) and meaning(one, expected) == meaning(
        other, expected
    ):
        expected += 1

    known = data.draw(st.integers(0, expected))
    assert one.num_common(other, start=known) == expected


def test_tokens_survive_packing() -> None:
    assert unpack_tokens(pack_tokens((1, 2**32 - 1))) == array("I", [1, 2**32 - 1])


def test_a_part_of_a_token_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="4 bytes each, got 5"):
        unpack_tokens(b"12345")


@pytest.mark.parametrize(("num_tokens", "digest"), [(0, b"x" * 16), (16, b"x"), (16, b"")])
def test_a_name_of_an_empty_prefix_is_refused(num_tokens: int, digest: bytes) -> None:
    with pytest.raises(InvalidRequest, match="a prefix name must have"):
        PrefixName(num_tokens, digest)


@pytest.mark.parametrize(("num_tokens", "digest"), [(0, CAT), (4, b"x"), (-1, CAT)])
def test_media_without_tokens_are_refused(num_tokens: int, digest: bytes) -> None:
    with pytest.raises(InvalidRequest, match="a media span must have"):
        MediaSpan(0, num_tokens, digest)
