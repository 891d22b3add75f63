"""Names for the beginnings of prompts, so that tokens which a worker has need not be sent again.

A name is the number of tokens, whole pages, and a digest that is chained page by page:
`D(n) = BLAKE2b-128(D(n-1) + tokens of page n)`, where `D(0)` is empty and a token is four bytes,
little-endian. Router and workers compute the same digest, each only for pages that are new to it.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from segue.errors import InvalidRequest

TOKEN_BYTES = 4
DIGEST_BYTES = 16

# As they lie in memory on every machine that Segue's other parts run on.
assert (array("I").itemsize, sys.byteorder) == (TOKEN_BYTES, "little")


@dataclass(frozen=True, slots=True)
class PrefixName:
    num_tokens: int
    digest: bytes

    def __post_init__(self) -> None:
        if self.num_tokens < 1 or len(self.digest) != DIGEST_BYTES:
            raise InvalidRequest(
                f"a prefix is named by at least one token and a digest of {DIGEST_BYTES} bytes, "
                f"got {self.num_tokens} tokens and {len(self.digest)} bytes"
            )


def page_digest(before: bytes, page: bytes) -> bytes:
    """Of a prefix that ends with `page`: `before` is the digest of what comes before the page."""
    return hashlib.blake2b(before + page, digest_size=DIGEST_BYTES).digest()


def pack_tokens(tokens: Sequence[int]) -> bytes:
    return array("I", tokens).tobytes()


def unpack_tokens(packed: bytes) -> array[int]:
    """Raises InvalidRequest for a part of a token."""
    if len(packed) % TOKEN_BYTES:
        raise InvalidRequest(f"tokens have {TOKEN_BYTES} bytes each, got {len(packed)} bytes")
    return array("I", packed)


class PageDigests:
    """The digests of a token sequence at its page ends, computed as far as they are asked for."""

    def __init__(self, page_tokens: int, digests: Sequence[bytes] = ()) -> None:
        self.page_tokens = page_tokens
        self._digests = list(digests)

    def name(self, tokens: array[int], num_pages: int) -> PrefixName:
        """Of the first pages of `tokens`, which must be the same sequence at each call."""
        page_tokens, digests = self.page_tokens, self._digests
        packed = pack_tokens(tokens[len(digests) * page_tokens : num_pages * page_tokens])
        page_bytes = page_tokens * TOKEN_BYTES
        for at in range(0, len(packed), page_bytes):
            before = digests[-1] if digests else b""
            digests.append(page_digest(before, packed[at : at + page_bytes]))
        return PrefixName(num_pages * page_tokens, digests[num_pages - 1])

    def up_to(self, num_tokens: int) -> PageDigests:
        """Of another sequence, which has the first `num_tokens` in common with this one."""
        return PageDigests(self.page_tokens, self._digests[: num_tokens // self.page_tokens])
