"""Regular expressions that xgrammar reads as JSON schema does."""

from __future__ import annotations

import re

from segue.api.errors import InvalidRequest

_ESCAPED_OR_CLASS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_GROUP = re.compile(r"\(\?(?!:)")
_BACK_REFERENCE = re.compile(r"\\[1-9k]")


def check_pattern(pattern: object, field: str) -> str:
    """The pattern, if it means the same to xgrammar, which reads it as the whole text and ignores
    what it does not support. Raises InvalidRequest.
    """
    if not isinstance(pattern, str):
        raise InvalidRequest.at(field, f"expected a regular expression, got {pattern!r:.80}")
    if _BACK_REFERENCE.search(pattern.replace("\\\\", "")):
        raise InvalidRequest.at(field, "references to groups cannot be enforced: rewrite it")
    plain = _ESCAPED_OR_CLASS.sub(lambda found: "x" * len(found[0]), pattern)
    if _GROUP.search(plain):
        raise InvalidRequest.at(
            field, "expected no groups but (…) and (?:…): lookarounds and names cannot be enforced"
        )
    for index, character in enumerate(plain):
        if character == "^" and not _starts_branch(plain, index):
            raise InvalidRequest.at(field, f"expected ^ only at the start, got it at {index}")
        if character == "$" and not _ends_branch(plain, index):
            raise InvalidRequest.at(field, f"expected $ only at the end, got it at {index}")
    return pattern


def _starts_branch(plain: str, index: int) -> bool:
    return index == 0 or (plain[index - 1] == "|" and _is_outside(plain, index))


def _ends_branch(plain: str, index: int) -> bool:
    return index == len(plain) - 1 or (plain[index + 1] == "|" and _is_outside(plain, index))


def _is_outside(plain: str, index: int) -> bool:
    """Outside all groups."""
    before = plain[:index]
    return before.count("(") == before.count(")")
