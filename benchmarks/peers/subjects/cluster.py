"""A Segue cluster of one prefill and one decode worker, asked as a client: `… MODEL THREADS`.

A prompt goes through the prefill worker and its handoff, or, as the suffix of a session whose start
the decode worker holds, is computed by the decode worker.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Iterator
from contextlib import ExitStack

from benchmarks.harness.samples import Answered
from benchmarks.peers.subjects.line_server import Answers, Request, serve
from benchmarks.serving.cluster import answer
from router.config import RouterConfig
from segue.engine.config import EngineConfig
from segue.launch.cluster import running_cluster
from segue.launch.config import ClusterConfig, Config
from segue.model.checkpoint.source import CheckpointConfig
from segue.sdk.client import Client

_START = tuple(range(100, 132))
"""The prompt of a session's first turn, which the next one continues."""


class SegueCluster:
    def __init__(self, folder: str, threads: int, cleanup: ExitStack) -> None:
        config = Config(
            cluster=ClusterConfig(model=folder, ray_address="local", http=False),
            checkpoint=CheckpointConfig(skip_tokenizer=True),
            # Suffixes as long as any prompt here may be computed by the decode worker.
            router=RouterConfig(port=0, local_prefill_max_tokens=4096),
            engine=EngineConfig(num_threads=threads),
        )
        self._loop = cleanup.enter_context(asyncio.Runner())
        cluster = cleanup.enter_context(running_cluster(config, lambda _: None))
        self._client = self._loop.run(_client(cluster.address))
        cleanup.callback(lambda: self._loop.run(self._client.close()))
        self._sessions: Iterator[int] = itertools.count()

    def answer(self, request: Request) -> Answers:
        return self._loop.run(self._answer(request))

    async def _answer(self, request: Request) -> Answers:
        sessions = [f"peers-{next(self._sessions)}" for _ in request.prompts]
        prompts = [tuple(prompt) for prompt in request.prompts]
        if request.is_suffix:
            starts = [await self._ask(session, _START, 2) for session in sessions]
            prompts = [
                (*_START, *start.token_ids, *prompt)
                for start, prompt in zip(starts, prompts, strict=True)
            ]
        answers = await asyncio.gather(
            *(self._ask(*pair, request.num_tokens) for pair in zip(sessions, prompts, strict=True))
        )
        computed_by = {str(a.end.prefill_worker) for a in answers if a.end is not None}
        return Answers(
            asked_at=answers[0].asked_at,
            token_at=[a.token_at for a in answers],
            token_ids=[a.token_ids for a in answers],
            note=f"prompts computed by {', '.join(sorted(computed_by))}",
        )

    async def _ask(self, session: str, prompt: tuple[int, ...], num_tokens: int) -> Answered:
        return await answer(self._client, prompt, num_tokens, session_id=session)


async def _client(address: str) -> Client:
    return Client(address)


if __name__ == "__main__":
    with ExitStack() as stack:
        serve(lambda: SegueCluster(sys.argv[1], int(sys.argv[2]), stack).answer)
