"""The oracle of drafts: transformers' trunk and its `MtpModel`, driven by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.modeling_layers import MtpModel


class MtpOracle:
    """Everything is computed from the first token on: nothing can be stale."""

    def __init__(self, folder: Path) -> None:
        self.trunk = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.trunk.config.num_mtp_layers = 1
        self.trunk.config.mtp_layer_types = ["full_attention"]
        self._mtp = MtpModel.from_pretrained(self.trunk).eval()
        self._answers: dict[tuple[tuple[int, ...], int], list[int]] = {}

    @torch.inference_mode()
    def logits(self, token_ids: Sequence[int]) -> Tensor:
        """Of the trunk, after every token."""
        return self.trunk(torch.tensor([token_ids])).logits[0]

    def greedy(self, prompt: Sequence[int], num_tokens: int) -> list[int]:
        """Remembered, for tests that ask for the same."""
        asked = (tuple(prompt), num_tokens)
        if asked not in self._answers:
            output = self.trunk.generate(
                torch.tensor([prompt]),
                max_new_tokens=num_tokens,
                do_sample=False,
                eos_token_id=None,
            )
            self._answers[asked] = output[0, len(prompt) :].tolist()
        return list(self._answers[asked])

    @torch.inference_mode()
    def draft_logits(self, token_ids: Sequence[int], draft_ids: Sequence[int]) -> Tensor:
        """The MTP layer's logits for the positions after the last token and after each draft.

        The trunk has computed all of `token_ids` but the last. Each draft goes in with the layer's
        own output at the position before it.
        """
        known = self.trunk.model(torch.tensor([token_ids[:-1]])).last_hidden_state
        inputs, logits = list(token_ids[1:]), []
        for draft_id in [*draft_ids, None]:
            positions = torch.arange(1, len(inputs) + 1)[None]
            out = self._mtp.forward_layer(
                0, known, positions, None, input_ids=torch.tensor([inputs])
            )
            logits.append(self.trunk.lm_head(out[0, -1]))
            if draft_id is not None:
                inputs.append(draft_id)
                known = torch.cat([known, out[:, -1:]], dim=1)
        return torch.stack(logits)
