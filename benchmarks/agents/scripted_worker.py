"""`python -m benchmarks.agents.scripted_worker --id prefill-0 …`: a prefill or decode worker whose
every token is the script's.

It computes, keeps and ships what any worker does. Only the logits that it samples from are changed:
the script's next token is far above all others.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tokenizers import Tokenizer
from torch import Tensor

from benchmarks.agents.script import answer_to
from decode_worker.__main__ import main as run_decode
from prefill_worker.__main__ import main as run_prefill
from segue.api.types import SampledToken
from segue.engine.sampler import SamplerRow, SequenceSampler, sample

_END = "<|im_end|>"
_MUCH = 1e6


class ScriptedSampler(SequenceSampler):
    """Knows its sequence's whole answer."""

    tokenizer: Tokenizer

    def __init__(self, *args: Any, prompt_ids: Sequence[int], **kwargs: Any) -> None:
        super().__init__(*args, prompt_ids=prompt_ids, **kwargs)
        prompt = self.tokenizer.decode(list(prompt_ids), skip_special_tokens=False)
        answer = f"{answer_to(prompt)}{_END}"
        self._num_prompt = len(prompt_ids)
        self._answer_ids = self.tokenizer.encode(answer, add_special_tokens=False).ids

    def token_at(self, position: int) -> int:
        return self._answer_ids[min(position - self._num_prompt, len(self._answer_ids) - 1)]


def sample_scripted(logits_NV: Tensor, rows: Sequence[SamplerRow]) -> list[SampledToken]:
    logits_NV = logits_NV.clone()
    for logits_V, row in zip(logits_NV, rows, strict=True):
        assert isinstance(row.sequence, ScriptedSampler)
        logits_V[row.sequence.token_at(row.position)] += _MUCH
    return sample(logits_NV, rows)


def main() -> None:
    arguments = sys.argv[1:]
    role = arguments[arguments.index("--id") + 1].partition("-")[0]
    folder = Path(arguments[arguments.index("--model") + 1])
    ScriptedSampler.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    run: Callable[[], None] = {"prefill": run_prefill, "decode": run_decode}[role]
    with (
        patch("prefill_worker.engine.sample", sample_scripted),
        patch("prefill_worker.engine.SequenceSampler", ScriptedSampler),
        patch("decode_worker.engine.stepper.sample", sample_scripted),
        patch("decode_worker.turn.SequenceSampler", ScriptedSampler),
    ):
        run()


if __name__ == "__main__":
    main()
