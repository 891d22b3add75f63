"""What `transformers` answers to the same tokens: the cluster must answer the same."""

from __future__ import annotations

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
        logits_TV = self._model(torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0]
        return logits_TV[len(prompt) - 1 : -1].argmax(-1).tolist() == list(answer)

    @torch.inference_mode()
    def logprobs(self, token_ids: Sequence[int]) -> torch.Tensor:
        """[num_tokens, vocab_size], after each token."""
        logits_TV: torch.Tensor = self._model(torch.tensor([list(token_ids)])).logits[0]
        return logits_TV.log_softmax(-1)
