"""The served model, as the router describes it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Protocol

from segue.api.cluster.status import ModelInfo
from segue.api.types import Detokenized
from segue.gateway.http.errors import UnknownModel
from segue.process.telemetry import Clock

# The router may restart with another model.
_FRESH_S = 2.0
# A turn also waits this long for a router that restarts.
_PATIENCE_S = 30.0


class ModelCalls(Protocol):
    """The calls to the router that are used here; see `segue.sdk.client.Client`."""

    async def model(self, *, timeout_s: float) -> ModelInfo: ...

    async def detokenize(self, token_ids: list[int]) -> Detokenized: ...


class ServedModelCache:
    def __init__(
        self,
        client: ModelCalls,
        clock: Clock = time.monotonic,
        *,
        texts: dict[int, bytes] | None = None,
    ) -> None:
        """`texts`: those of tokens that are already known."""
        self._client = client
        self._clock = clock
        self._info: ModelInfo | None = None
        self._fresh_until = 0.0
        self._asking = asyncio.Lock()
        self.texts = {} if texts is None else texts
        """The bytes of each token's text; at most the vocabulary."""

    async def info(self) -> ModelInfo:
        """Raises Unavailable, and Unauthenticated if the client's API key is not known."""
        async with self._asking:
            if self._info is None or self._clock() >= self._fresh_until:
                info = await self._client.model(timeout_s=_PATIENCE_S)
                if self._info is not None and info.model_id != self._info.model_id:
                    self.texts.clear()
                self._info, self._fresh_until = info, self._clock() + _FRESH_S
            return self._info

    async def named(self, name: str | None) -> ModelInfo:
        """The served model. Raises UnknownModel if `name` is the name of another one."""
        info = await self.info()
        if name is not None and name != info.name:
            raise UnknownModel(
                f"expected the model {info.name!r}, which is the only one served, got "
                f"{name!r:.200}: see /v1/models"
            )
        return info

    async def token_bytes(self, token_ids: Iterable[int]) -> Mapping[int, bytes]:
        """The bytes of these tokens' texts, and maybe of others."""
        unknown = [token_id for token_id in set(token_ids) if token_id not in self.texts]
        if unknown:
            at_once = (await self.info()).max_context
            for first in range(0, len(unknown), at_once):
                some = unknown[first : first + at_once]
                found = await self._client.detokenize(some)
                self.texts.update(zip(some, found.tokens, strict=True))
        return self.texts


def fingerprint(info: ModelInfo) -> str:
    """OpenAI's `system_fingerprint`: equal if the weights are."""
    return f"segue-{info.model_id[:12]}"
