"""Two tenants on a cluster that is too small for them: `python -m benchmarks.load.tenants`.

One has many sessions, the other few and limits. Turns wait in the router, the limited tenant is
refused and retries, and no turn may fail. The tenant with few sessions must not wait as long as the
other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.harness.environment import this_environment
from benchmarks.harness.processes import process_cluster
from benchmarks.harness.samples import median, percentile
from benchmarks.load.drive import Outcome, run_load
from benchmarks.load.measure import until_idle, until_ready
from segue.demo import checkpoint_dir
from segue.sdk.client import Client

_KEYS = """
[tenants.many]
keys = ["sk-many"]
[tenants.few]
keys = ["sk-few"]
max_turns = 3
tokens_per_minute = 60_000
"""
_SETTINGS = """
[engine]
num_threads = 1
cache_bytes = 268435456
max_running = 8
[router]
api_keys_file = "{path}"
"""
_SESSIONS = {"many": 48, "few": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    tenant: str
    sessions: int
    turns: int
    failures: dict[str, int]
    refusals: int
    first_token_p50_s: float
    first_token_p99_s: float

    @classmethod
    def of(cls, tenant: str, outcome: Outcome) -> Row:
        times = outcome.first_token_s
        return cls(
            tenant=tenant,
            sessions=_SESSIONS[tenant],
            turns=len(times),
            failures=dict(outcome.failures),
            refusals=outcome.refusals,
            first_token_p50_s=median(times),
            first_token_p99_s=percentile(times, 99),
        )


async def measure(path: Path, turns: int) -> tuple[list[Row], int, bool]:
    """The rows, the most turns that waited at once, and whether nothing is held afterwards."""
    most_waiting = 0
    with process_cluster(
        str(checkpoint_dir()),
        _SETTINGS.format(path=path),
    ) as cluster:
        async with Client(cluster.address, api_key="sk-many") as client:
            await until_ready(client, 2)

            async def watch() -> None:
                nonlocal most_waiting
                while True:
                    waiting = (await client.status()).router.waiting_turns
                    most_waiting = max(most_waiting, waiting)
                    await asyncio.sleep(0.1)

            watching = asyncio.create_task(watch())
            share = {"many": turns * 9 // 10, "few": turns - turns * 9 // 10}
            outcomes = await asyncio.gather(
                *(
                    run_load(
                        client.with_key(f"sk-{tenant}"),
                        num_sessions=num_sessions,
                        num_turns=share[tenant],
                    )
                    for tenant, num_sessions in _SESSIONS.items()
                )
            )
            watching.cancel()
            is_idle = await until_idle(client)
    rows = [Row.of(tenant, one) for tenant, one in zip(_SESSIONS, outcomes, strict=True)]
    return rows, most_waiting, is_idle


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load.tenants", description=__doc__)
    parser.add_argument("--turns", type=int, default=2_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "keys.toml"
        path.write_text(_KEYS)
        path.chmod(0o600)
        rows, most_waiting, is_idle = asyncio.run(measure(path, options.turns))
    result = {
        "environment": asdict(this_environment()),
        "rows": [asdict(row) for row in rows],
        "most_waiting": most_waiting,
        "is_idle_after": is_idle,
    }
    print(json.dumps(result, indent=1))  # noqa: T201
    raise SystemExit(not is_idle or any(row.failures for row in rows))


if __name__ == "__main__":
    main()
