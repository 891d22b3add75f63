"""What is asked of Ray's own autoscaler: nodes for all wanted workers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from ray.autoscaler.sdk import request_resources
from ray.exceptions import RayError

from segue.api.errors import Unavailable
from segue.launch.ray.demand import Demand

logger = logging.getLogger(__name__)

RequestResources = Callable[..., None]


class NodeRequest:
    """A Ray cluster has one request, and each replaces the one before. Ray compares it with what
    nodes have, not with what is unused, and keeps nodes that it needs for it even if they are idle.
    """

    def __init__(self, request: RequestResources = request_resources) -> None:
        self._request = request
        self._has_asked = False

    def ask(self, demands: Sequence[Demand]) -> None:
        """For nodes with room for all of these workers, those that run included. Raises
        Unavailable if Ray does not answer."""
        bundles, selectors = bundles_of(demands)
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
    demands: Sequence[Demand],
) -> tuple[list[dict[str, float]], list[dict[str, str]]]:
    """The resources of each worker, and the labels of its node. One that asks for nothing fits
    everywhere, and needs no bundle. Routers are left out: Ray drops a request as a whole if a part
    of it fits no kind of node that it can add, and their node is often one that it does not know.
    """
    workers = (demand for demand in demands if demand.role is not None)
    asking = [demand for demand in workers if demand.amounts or demand.pin.labels]
    return [demand.amounts for demand in asking], [dict(demand.pin.labels) for demand in asking]
