"""The gateway as the owner of an API key uses it: the router decides what the key may do."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from segue.gateway.http.routes import Gateway
from segue.gateway.served import ServedModel
from segue.gateway.stored import StoredResponses
from segue.gateway.turns import Turns

# Keys whose model is remembered, so that not each request has to ask for it.
_MAX_KEYS = 1024


def by_key(gateway: Gateway) -> Callable[[str], Gateway]:
    """Makes the gateway of a key, which is empty if there is none. All share one connection."""
    known: OrderedDict[str, Gateway] = OrderedDict()

    def of_key(key: str) -> Gateway:
        own = known.get(key)
        if own is None:
            own = known[key] = _of(gateway, key)
            if len(known) > _MAX_KEYS:
                known.popitem(last=False)
        known.move_to_end(key)
        return own

    return of_key


def _of(gateway: Gateway, key: str) -> Gateway:
    client = gateway.client.with_key(key or None)
    return replace(
        gateway,
        client=client,
        served=ServedModel(client, texts=gateway.served.texts),
        turns=Turns(client, gateway.metrics),
        stored=StoredResponses(client),
    )
