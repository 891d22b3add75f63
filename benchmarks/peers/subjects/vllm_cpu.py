"""vLLM on a CPU, compiled: `… MODEL THREADS`.

Its engine runs in this process, because the steps give the time of each token.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from typing import Any

from benchmarks.peers.subjects.line_server import Answers, Request, serve


class Vllm:
    def __init__(self, folder: str, threads: int) -> None:
        cores = sorted(os.sched_getaffinity(0))[:threads]
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores))
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from vllm import LLM

        self._engine: Any = LLM(
            model=folder,
            skip_tokenizer_init=True,
            dtype="bfloat16",
            max_model_len=8192,
            max_num_batched_tokens=4096,
            max_num_seqs=8,
            enable_prefix_caching=False,
        ).llm_engine
        self._numbers = itertools.count()

    def answer(self, request: Request) -> Answers:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=0.0,
            max_tokens=request.num_tokens,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        token_at: dict[str, list[float]] = {}
        token_ids: dict[str, list[int]] = {}
        asked_at = time.monotonic()
        for prompt in request.prompts:
            name = str(next(self._numbers))
            token_at[name], token_ids[name] = [], []
            self._engine.add_request(name, {"prompt_token_ids": prompt}, params)
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                (delta,) = output.outputs
                token_at[output.request_id] += [time.monotonic()] * len(delta.token_ids)
                token_ids[output.request_id] += delta.token_ids
        return Answers(
            asked_at=asked_at,
            token_at=list(token_at.values()),
            token_ids=list(token_ids.values()),
        )


if __name__ == "__main__":
    serve(lambda: Vllm(sys.argv[1], int(sys.argv[2])).answer)
