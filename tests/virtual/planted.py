"""Plants faults into a copy of the code, one after the other, and reports which tests find them.

python -m tests.virtual.planted [NAME …]
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
MACHINES = (
    "tests/protocol",
    "tests/kv_transfer/test_handoff_machine.py",
    "tests/router/test_turn_machine.py",
    "tests/router/test_membership_machine.py",
    "tests/decode_worker/test_lease_machine.py",
)
NUM_FAULTS = 150
# The smallest example of a fault takes long to find, and is not wanted here.
WITHOUT_SHRINKING = """
import sys, hypothesis, pytest
hypothesis.settings.register_profile("first", phases=[hypothesis.Phase.generate])
hypothesis.settings.load_profile("first")
sys.exit(pytest.main(sys.argv[1:]))
"""


class Planted(NamedTuple):
    file: str
    right: str
    wrong: str


PLANTED = {
    "a freed reservation is not quarantined": Planted(
        "kv_transfer/handoff.py",
        "        case GivenUp(reason):\n            return Quarantined(state.units, reason)",
        "        case GivenUp(reason):\n            return Freed(reason)",
    ),
    "an expired ticket is not quarantined": Planted(
        "kv_transfer/handoff.py",
        '            return Quarantined(state.units, "the ticket expired")',
        '            return Freed("the ticket expired")',
    ),
    "a fence is not sent": Planted(
        "kv_transfer/reading/fencer.py",
        "            has_stopped = await self._ask_to_stop(fence)\n",
        "            has_stopped = True\n",
    ),
    "an unanswered fence counts as a death": Planted(
        "kv_transfer/peers/calls.py",
        "                    raise\n",
        "                    return False\n",
    ),
    "a fence does not stop the writer": Planted(
        "kv_transfer/writing/writer.py",
        '        await outgoing.stop("the reader gave up")',
        "        return",
    ),
    "a ticket is used after its fence": Planted(
        "kv_transfer/writing/writer.py",
        "for known in (self._ended, self._fenced, self._active)",
        "for known in (self._ended, self._active)",
    ),
    "checksums are not compared": Planted(
        "kv_transfer/reading/reader.py",
        "        return difference(sent, arrived)",
        '        return ""',
    ),
    "a commit of another epoch is taken": Planted(
        "kv_transfer/reading/reservations.py",
        "        if epoch != self._reader.epoch:",
        "        if False:",
    ),
    "a living writer counts as dead": Planted(
        "kv_transfer/reading/reader.py",
        "            if alive.get(writer.worker_id, writer.epoch) > writer.epoch:",
        "            if alive.get(writer.worker_id, 0) >= writer.epoch:",
    ),
    "a dead writer is never noticed": Planted(
        "kv_transfer/reading/reader.py",
        "            if alive.get(writer.worker_id, writer.epoch) > writer.epoch:",
        "            if False:",
    ),
    "tickets do not expire": Planted(
        "kv_transfer/reading/reservations.py",
        "        while (expires_at := self.next_expiry()) is not None and expires_at <= now:",
        "        while False:",
    ),
    "a stop does not wait for the write in flight": Planted(
        "kv_transfer/exchange.py", "        await outgoing.stop(reason)\n", ""
    ),
    "a cancelled commit keeps its units": Planted(
        "kv_transfer/reading/reader.py",
        '            self._step(handoff, GivenUp("the commit was cancelled"))\n',
        "",
    ),
    "an untaken arrival is not freed": Planted(
        "kv_transfer/reading/reader.py",
        "            self._pools.give_back(arrival.pages, [arrival.slot])\n",
        "",
    ),
    "a turn's prefix stays held": Planted(
        "decode_worker/worker.py", "        self._memory.cache.release(turn.hold)\n", ""
    ),
    "the slots of a failed turn leak": Planted(
        "decode_worker/worker.py", "event.sequence.slots)", "event.sequence.ring.slots)"
    ),
    "a stop does not reach the engine": Planted(
        "decode_worker/worker.py",
        "            self._engine.submit(Drop(turn.spec.turn_id))\n",
        "",
    ),
    "a stopped turn is forgotten before the engine let go": Planted(
        "prefill_worker/worker.py", "            await uninterrupted(done)\n", ""
    ),
    "a failed prompt keeps its units": Planted(
        "prefill_worker/worker.py",
        "            self._prompts.give_back(units)\n",
        "            pass\n",
    ),
    "waiting turns are not woken when memory is free": Planted(
        "decode_worker/worker.py",
        "        turn.over.set()\n        self._room.wake()\n",
        "        turn.over.set()\n",
    ),
    "turns go on after their stream broke": Planted(
        "segue/wire/streams/server.py",
        '                self._stop(number, "its client left")',
        "                pass",
    ),
    "a resumed answer starts again": Planted(
        "router/turn/answered.py",
        "        context = spec.context + self.token_ids\n",
        "        return spec\n",
    ),
    "a seat is never left": Planted(
        "router/turn/turn.py", "            self._context.placing.leave()\n", ""
    ),
    "a failed attempt is not stopped": Planted(
        "router/turn/turn.py",
        "        finally:\n            dispatch.close()",
        "        finally:\n            pass",
    ),
    "a turn's deadline is not watched": Planted(
        "router/turn/turn.py",
        "self.interrupt, self._too_late",
        "lambda error: None, self._too_late",
    ),
    "a place is not given back": Planted(
        "router/router.py", "                held.callback(self._admission.leave)\n", ""
    ),
    "a late heartbeat revives an earlier life": Planted(
        "router/membership/membership.py", "        if status.epoch < latest:", "        if False:"
    ),
    "silence is not noticed": Planted(
        "router/membership/membership.py",
        "                if member.seen_at < now - self.heartbeat_timeout_s:",
        "                if False:",
    ),
    "a pause ends with the session leased twice": Planted(
        "decode_worker/memory/leases.py",
        "        self._stop_returning(session_id)\n        self._copies.pop(session_id, None)\n",
        "",
    ),
    "a renewal does not reach the host": Planted(
        "decode_worker/memory/leases.py",
        "        for leases, _ in leased:\n            leases.renew(session_id, expires_at)\n",
        "        leased[0][0].renew(session_id, expires_at)\n",
    ),
}


def main(names: list[str]) -> None:
    if found := _found_in(None):
        raise SystemExit(f"without a planted fault, {', '.join(found)} must pass")
    for name in names or PLANTED:
        found = _found_in(PLANTED[name])
        sys.stdout.write(f"{name}: {', '.join(found) or 'NOT FOUND'}\n")
        sys.stdout.flush()


def _found_in(planted: Planted | None) -> list[str]:
    """The tests that fail in a copy of the code with the fault."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "segue"
        kept = shutil.ignore_patterns(".git", ".venv", "docs", "*.safetensors", "*.pyc")
        shutil.copytree(ROOT, tree, ignore=kept)
        if planted is not None:
            _plant(tree, planted)
        return [how for how, command in _commands() if _fails(tree, command)]


def _plant(tree: Path, planted: Planted) -> None:
    path = tree / planted.file
    text = path.read_text("utf-8")
    if text.count(planted.right) != 1:
        raise SystemExit(f"{planted.file} has {planted.right!r} {text.count(planted.right)} times")
    path.write_text(text.replace(planted.right, planted.wrong), "utf-8")


def _commands() -> list[tuple[str, list[str]]]:
    pytest = ["-q", "-x", "-p", "no:cacheprovider", "-W", "ignore:Module already imported"]
    return [
        ("state machines", ["-c", WITHOUT_SHRINKING, *pytest, *MACHINES]),
        ("virtual time", ["-m", "tests.virtual", "--faults", str(NUM_FAULTS), "--seed", "1"]),
    ]


def _fails(tree: Path, command: list[str]) -> bool:
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONHASHSEED": "0"}
    try:
        ran = subprocess.run(
            [sys.executable, *command],
            cwd=tree,
            env=environment,
            capture_output=True,
            timeout=600,
        )
    except subprocess.TimeoutExpired:
        # A test that hangs has found it, too.
        return True
    return ran.returncode != 0


if __name__ == "__main__":
    main(sys.argv[1:])
