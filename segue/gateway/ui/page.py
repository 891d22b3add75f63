"""The status page, from its sources: one document, and what it is allowed to do."""

from __future__ import annotations

import base64
import functools
import hashlib
from importlib.resources import files


@functools.cache
def page() -> bytes:
    """page.html with the style and the script in it."""
    text = _source("page.html")
    for mark, part in (("/*style*/", _style()), ("/*script*/", _script())):
        assert text.count(mark) == 1, f"page.html has one {mark}"
        text = text.replace(mark, part)
    return text.encode()


@functools.cache
def headers() -> dict[str, str]:
    """Only the page's own style and script run, and it may talk to this gateway alone."""
    policy = (
        "default-src 'none'",
        f"script-src '{_hash(_script())}'",
        f"style-src '{_hash(_style())}'",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    return {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": "; ".join(policy),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }


def _style() -> str:
    return _source("page.css")


def _script() -> str:
    return "".join(map(_source, ("cluster.js", "turns.js", "follow.js")))


def _source(name: str) -> str:
    return files("segue.gateway.ui").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
