"""What is asked of Ray's own autoscaler: nodes for all wanted workers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayError

from segue.api.errors import Unavailable
from segue.launch.ray.demand import Demand, NodeRoom, strategy_of

logger = logging.getLogger(__name__)

RequestResources = Callable[..., None]


class NodeRequest:
    """A Ray cluster has one request, and each replaces the one before. Ray compares it with what
    nodes have, not with what is unused, and keeps nodes that it needs for it even if they are idle.
    """

    def __init__(self, request: RequestResources = request_resources) -> None:
        self._request = request
        self._has_asked = False

    def ask(self, demands: Sequence[Demand], nodes: Sequence[NodeRoom] = ()) -> None:
        """For nodes with room for all of these workers, those that run included. `nodes`: what each
        node has that is there already. Raises Unavailable if Ray does not answer."""
        bundles, selectors = bundles_of(demands, nodes)
        labels: dict[str, Any] = {"bundle_label_selectors": selectors} if any(selectors) else {}
        try:
            self._request(bundles=bundles, **labels)
        except (RayError, RuntimeError) as error:
            raise Unavailable(f"Ray's autoscaler cannot be asked for nodes: {error}") from error
        self._has_asked = True

    def withdraw(self) -> None:
        """The request would outlive this process, and with it the nodes. One that somebody else
        has made stays."""
        if not self._has_asked:
            return
        try:
            self._request(bundles=[])
        except (RayError, RuntimeError) as error:
            # Ray's part that keeps it has ended, or does not answer.
            logger.warning("Ray's autoscaler keeps its request", extra={"error": str(error)})
        self._has_asked = False


def bundles_of(
    demands: Sequence[Demand], nodes: Sequence[NodeRoom] = ()
) -> tuple[list[dict[str, float]], list[dict[str, str]]]:
    """The resources of each worker, and the labels of its node. A worker that no node of now could
    hold is asked for rank by rank: kinds of nodes that Ray may add are unknown here, and it drops a
    request as a whole if a part of it fits none of them.

    One that asks for nothing fits everywhere, and needs no bundle. Routers are left out, since
    their node is often one that Ray cannot add.
    """
    asking: list[Demand] = []
    for demand in demands:
        if demand.role is None or not (demand.amounts or demand.pin.labels):
            continue
        is_whole = strategy_of(demand, nodes) == "STRICT_PACK"
        asking += [demand] if is_whole else [demand.of_rank()] * demand.num_ranks
    return [demand.amounts for demand in asking], [dict(demand.pin.labels) for demand in asking]
