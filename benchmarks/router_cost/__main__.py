"""The cost of a prompt to the router, and to concurrent turns.

One session of many turns; then a prompt of many tokens, and a message of many bytes, while short
turns of other sessions continue. The router is the real one, in a separate process, over gRPC; its
turns end without workers. The benchmark only uses what client and router had in the first release,
so the folder can be copied into an older tree to compare.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segue.api.types import ChatInput, Message
from segue.sdk.client import Client

DEMO = Path(__file__).parents[2] / "segue" / "demo" / "checkpoint"
_CONTEXT = 262_144
_QUESTION = "The train to Paris leaves at noon and arrives in the evening of the same day. " * 4
_WINDOW = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, default=DEMO, help="folder with its template")
    parser.add_argument("--turns", type=int, default=400)
    parser.add_argument("--prompt-tokens", type=int, default=200_000)
    parser.add_argument("--message-bytes", type=int, default=20 << 20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text_side(options.tokenizer, Path(folder))
        with router_process(folder) as process:
            result = asyncio.run(measure(process, options))
    print(json.dumps(result, indent=2))  # noqa: T201


def text_side(source: Path, folder: Path) -> None:
    """The files that a router reads from a checkpoint, with a long context."""
    for name in ("tokenizer.json", "chat_template.jinja", "tokenizer_config.json"):
        shutil.copyfile(source / name, folder / name)
    config = json.loads((DEMO / "config.json").read_text())
    config.update(max_position_embeddings=_CONTEXT, vocab_size=max(config["vocab_size"], 248_320))
    (folder / "config.json").write_text(json.dumps(config))


@contextlib.contextmanager
def router_process(folder: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.router_cost.served", folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def _read(process: subprocess.Popen[str]) -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


async def measure(
    process: subprocess.Popen[str], options: argparse.Namespace, *, idle_s: float = 2.0
) -> dict[str, Any]:
    assert process.stdout is not None
    target = await asyncio.to_thread(process.stdout.readline)
    async with Client(target.strip()) as client:
        await _one(client, "warm-up", ChatInput(messages=(Message(role="user", content="hi"),)))
        session = await _session(client, process, options.turns)
        words = "word " * options.prompt_tokens
        text = "x" * options.message_bytes
        return {
            "session": session,
            "alone": await _beside(client, process, None, idle_s),
            f"prompt of {options.prompt_tokens} words": await _beside(
                client, process, words, idle_s
            ),
            f"message of {options.message_bytes} bytes": await _beside(
                client, process, text, idle_s
            ),
            "both, once more": await _beside(client, process, words, idle_s)
            | {"then": await _beside(client, process, text, idle_s)},
        }


async def _session(
    client: Client, process: subprocess.Popen[str], num_turns: int
) -> dict[str, list[float]]:
    """The router's CPU time per turn, for each 50 consecutive turns."""
    session, windows = client.session("long"), []
    for start in range(0, num_turns, _WINDOW):
        _read(process)
        num = min(_WINDOW, num_turns - start)
        for _ in range(num):
            async for _ in session.turn(_QUESTION):
                pass
        windows.append(round(_read(process)["cpu_s"] / num * 1000, 2))
    return {"cpu_ms_a_turn": windows}


async def _beside(
    client: Client, process: subprocess.Popen[str], text: str | None, idle_s: float
) -> dict[str, Any]:
    """Short turns of four sessions while a prompt is made from `text`, or while the
    router is idle.
    """
    is_over = asyncio.Event()
    before = _read(process)
    others = [asyncio.ensure_future(_short_turns(client, f"s{n}", is_over)) for n in range(4)]
    await asyncio.sleep(idle_s / 4)
    started_at, outcome = time.perf_counter(), "served"
    if text is None:
        await asyncio.sleep(idle_s)
    else:
        # Another channel: the client's large message must not delay its own short turns.
        outcome = await asyncio.to_thread(_send_alone, client.target, text)
    took_s = time.perf_counter() - started_at
    is_over.set()
    latencies = sorted(latency for times in await asyncio.gather(*others) for latency in times)
    report = _read(process)
    await asyncio.sleep(idle_s / 2)
    return {
        "took_s": round(took_s, 3),
        "outcome": outcome,
        "others_p50_ms": round(latencies[len(latencies) // 2] * 1000, 1),
        "others_max_ms": round(latencies[-1] * 1000, 1),
        "longest_stall_ms": round(report["longest_stall_s"] * 1000, 1),
        "resident_mb_before": round(before["resident_bytes"] / 1e6),
        "resident_mb_after": round(_read(process)["resident_bytes"] / 1e6),
    }


def _send_alone(target: str, text: str) -> str:
    """In a separate process, since writing 20 MB holds the GIL."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.router_cost.send", target],
        input=text,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


async def _short_turns(client: Client, name: str, is_over: asyncio.Event) -> list[float]:
    latencies = []
    while not is_over.is_set():
        started_at = time.perf_counter()
        await _one(client, name, ChatInput(messages=(Message(role="user", content="hello"),)))
        latencies.append(time.perf_counter() - started_at)
        await asyncio.sleep(0.01)
    return latencies


async def _one(client: Client, name: str, chat: ChatInput) -> None:
    await client.generate(chat, session_id=name)


if __name__ == "__main__":
    main()
