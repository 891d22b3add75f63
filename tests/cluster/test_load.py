"""Short turns on a healthy cluster: none fails. `python -m benchmarks.load` is the long form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.load.drive import run_load
from kv_transfer.transport.mooncake import open_mooncake
from segue.launch.config import Config
from tests.cluster.conftest import ENGINE, local_cluster
from tests.cluster.waiting import is_idle, wait_until_idle

# Turns by number of concurrent sessions: a few one after the other, and many at once.
LOADS = {1: 10, 4: 16, 32: 48}


@pytest.mark.parametrize(
    ("num_workers", "is_local"),
    [
        (1, True),
        (2, False),
        pytest.param(1, False, marks=pytest.mark.slow),
        pytest.param(2, True, marks=pytest.mark.slow),
    ],
)
async def test_no_short_turn_fails(demo: Path, num_workers: int, is_local: bool) -> None:
    config = Config(engine=ENGINE)
    if not is_local:
        config = replace(config, router=replace(config.router, local_prefill_max_tokens=0))
    async with local_cluster(
        demo,
        config,
        prefill=num_workers,
        decode=num_workers,
        open_transport=open_mooncake,
    ) as cluster:
        for num_sessions, num_turns in LOADS.items():
            outcome = await run_load(
                cluster.client, num_sessions=num_sessions, num_turns=num_turns, seed=num_sessions
            )

            assert outcome.failures == {}
            assert outcome.num_turns == num_turns
        status = await wait_until_idle(cluster.client)

    assert is_idle(status), status
    # Every turn counts as ended, though its client disconnects as soon as it has the end.
    assert status.router.finished_turns == sum(LOADS.values())
    assert (status.router.failed_turns, status.router.cancelled_turns) == (0, 0)
