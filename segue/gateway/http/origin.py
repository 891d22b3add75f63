"""Refuses requests that web pages make their visitors' browsers send.

Without API keys, reaching the gateway is enough to use it, and a browser on its machine reaches it
even on loopback. A browser sends a POST of plain text for any page without asking first (CORS), but
it states the page's origin.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from segue.api.errors import PermissionDenied
from segue.gateway.http.door import Visit
from segue.security.config import is_loopback

# A GET changes nothing, and the browser keeps its answer from the page.
_METHODS = ("POST", "DELETE")
_PORTS = {"http": 80, "https": 443}


def require_no_foreign_page(method: str, visit: Visit, listening_host: str) -> None:
    """A request with an API key passes: a page cannot send one without asking the gateway first.
    Raises PermissionDenied.
    """
    if method not in _METHODS or visit.api_key():
        return
    origin, host = visit.headers.get("origin", ""), visit.headers.get("host", "")
    if is_foreign(origin, host, is_local=is_loopback(listening_host)):
        raise PermissionDenied(
            "expected a request without an API key to come from a program, or from a web page on "
            f"this machine, got one from the page with the Origin {origin!r:.200}: send an API key "
            "(any, if the router has none), or let a proxy before the gateway remove that header"
        )


def is_foreign(origin: str, host: str, *, is_local: bool) -> bool:
    """Whether a web page with this origin may not use the gateway. `host`: the request's header.
    `is_local`: the gateway listens on loopback.
    """
    # A sandboxed page, or a file.
    if origin == "null":
        return True
    # Those with other schemes, such as browser extensions, were installed by the user.
    if origin.partition(":")[0].lower() not in _PORTS:
        return False
    try:
        page = _address(origin)
        if is_loopback(page[0]):
            return False
        # Any page may give its own name the address 127.0.0.1, and is then the host too.
        return is_local or page != _address(f"{origin.partition(':')[0]}://{host}")
    except ValueError:
        return True


def _address(url: str) -> tuple[str, int]:
    """Raises ValueError."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or _PORTS[parts.scheme]
