"""A gateway, as an operator asks it over HTTP."""

from __future__ import annotations

import asyncio
import json
import ssl
import urllib.error
import urllib.request
from typing import Any

from segue.api.errors import InvalidRequest, PermissionDenied, Unauthenticated, Unavailable
from segue.security.tls import Tls

_TIMEOUT_S = 5.0


class GatewayCalls:
    def __init__(self, address: str, *, api_key: str = "", tls: Tls | None = None) -> None:
        """`address`: host:port or a URL. Raises InvalidRequest."""
        scheme = "https" if tls else "http"
        self.url = (address if "://" in address else f"{scheme}://{address}").rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise InvalidRequest(
                f"expected a gateway as host:port, or http://… or https://…, got {address!r:.80}"
            )
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._tls = tls

    async def process(self) -> tuple[float, bool]:
        """How many seconds it has served, and whether it drains. Raises Unavailable if it cannot be
        reached, and the errors of a wrong key."""
        reply = await asyncio.to_thread(self._ask, "GET", "/process")
        return float(reply["uptime_s"]), bool(reply["draining"])

    async def drain(self) -> None:
        """Returns at once; the gateway then finishes its requests. Raises as `process`, and
        PermissionDenied."""
        await asyncio.to_thread(self._ask, "POST", "/drain")

    def _ask(self, method: str, path: str) -> Any:
        request = urllib.request.Request(self.url + path, method=method, headers=self._headers)
        try:
            with urllib.request.urlopen(
                request, timeout=_TIMEOUT_S, context=self._context()
            ) as got:
                return json.load(got)
        except urllib.error.HTTPError as error:
            with error:
                message = f"gateway {self.url}: {error.code} for {method} {path}"
            if error.code == 401:
                raise Unauthenticated(f"{message}: give an API key with --api-key") from None
            if error.code == 403:
                raise PermissionDenied(f"{message}: give an operator's API key") from None
            if error.code >= 500:
                raise Unavailable(message) from None
            raise InvalidRequest(f"{message}: expected a Segue gateway of this version") from None
        except (OSError, ValueError, KeyError) as error:
            raise Unavailable(f"gateway {self.url} cannot be reached: {error}") from None

    def _context(self) -> ssl.SSLContext | None:
        if not self.url.startswith("https://"):
            return None
        tls = self._tls or Tls()
        context = ssl.create_default_context(cafile=tls.ca or None)
        if tls.certificate:
            context.load_cert_chain(tls.certificate, tls.key)
        return context
