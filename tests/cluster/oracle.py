"""What `transformers` answers to the same tokens: the cluster must answer the same."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM


class Oracle:
    """Greedy answers of one checkpoint, in one process, without any of our code."""

    def __init__(self, folder: Path) -> None:
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.inference_mode()
    def greedy(self, prompt: Sequence[int], num_tokens: int) -> list[int]:
        """Exactly `num_tokens` tokens, ignoring end tokens."""
        ids = torch.tensor([list(prompt)])
        generated = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=num_tokens,
            eos_token_id=None,
            pad_token_id=0,
        )
        return [int(token) for token in generated[0, len(prompt) :]]

    @torch.inference_mode()
    def would_say(self, prompt: Sequence[int], answer: Sequence[int]) -> bool:
        """Whether each token of the answer is the most likely one after all tokens before it: the
        same check as `greedy`, in one pass from scratch.
        """
        return not self.wrong([(prompt, answer)])

    @torch.inference_mode()
    def wrong(self, turns: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[int]:
        """The turns (prompt and answer) that fail `would_say`. A turn that is a prefix of another
        is checked in the same pass: what follows a token does not change what is computed for it.
        """
        texts = [[*prompt, *answer] for prompt, answer in turns]
        wrong, left = [], sorted(range(len(turns)), key=lambda turn: -len(texts[turn]))
        while left:
            longest = texts[left[0]]
            inside = [turn for turn in left if longest[: len(texts[turn])] == texts[turn]]
            first = min(len(turns[turn][0]) for turn in inside) - 1
            logits_TV = self._model(
                torch.tensor([longest]), use_cache=False, logits_to_keep=len(longest) - first
            ).logits[0]
            expected = longest[: first + 1] + logits_TV[:-1].argmax(-1).tolist()
            for turn in inside:
                start, end = len(turns[turn][0]), len(texts[turn])
                if expected[start:end] != texts[turn][start:]:
                    wrong.append(turn)
            left = [turn for turn in left if turn not in inside]
        return sorted(wrong)

    @torch.inference_mode()
    def logprobs(self, token_ids: Sequence[int]) -> torch.Tensor:
        """[num_tokens, vocab_size], after each token."""
        logits_TV: torch.Tensor = self._model(torch.tensor([list(token_ids)])).logits[0]
        return logits_TV.log_softmax(-1)


@functools.lru_cache(maxsize=2)
def oracle_of(folder: Path) -> Oracle:
    """The oracle of a folder whose weights do not change, loaded once for several tests."""
    return Oracle(folder)
