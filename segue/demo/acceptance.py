"""The acceptance rate of the demo model's draft layer: the share of drafts that match the trunk's
tokens.

The trunk answers first, without drafts; then a chain of drafts starts at every token of its answer.
A draft is judged only if all drafts before it were right. Tokens after the answer's end do not
count.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache, Qwen3_5ForCausalLM
from transformers.modeling_layers import MtpModel

from segue.demo.corpus.examples import Example
from segue.demo.mtp import chained

MAX_DRAFTS = 4
_MAX_ANSWER_TOKENS = 120


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Counts for positions 1 to `MAX_DRAFTS` in a chain, and for decoding with such chains."""

    num_judged: tuple[int, ...]
    num_right: tuple[int, ...]
    num_tokens: int
    num_passes: int
    """Passes of the trunk; each yields the right drafts and one more token."""

    @property
    def rates(self) -> list[float]:
        """The share of right drafts among those judged, per position; nan if there were none."""
        counts = zip(self.num_right, self.num_judged, strict=True)
        return [right / judged if judged else float("nan") for right, judged in counts]

    @property
    def tokens_per_pass(self) -> float:
        """From 1, if no draft is right, to `MAX_DRAFTS` + 1, if all are."""
        return self.num_tokens / self.num_passes


@dataclass(frozen=True, slots=True)
class _SampledAnswer:
    ids: list[int]
    """Prompt and answer."""
    num_prompt: int
    hidden_1TC: torch.Tensor
    """The trunk's hidden states at every token but the last."""
    noise_AV: torch.Tensor
    """Added to the logits of each token of the answer before the argmax."""


@torch.inference_mode()
def acceptance(
    trunk: Qwen3_5ForCausalLM, head: MtpModel, examples: Sequence[Example], temperature: float
) -> Acceptance:
    """Judges drafts in the trunk's own answers, which replace those of the examples.

    A draft is sampled with the same noise as its token; temperature 0 is greedy.
    """
    prompts = [prompt for example in examples for prompt in _prompts(example)]
    chains = []
    for seed, prompt in enumerate(prompts):
        answer = _answer(trunk, prompt, seed, temperature)
        chains.append(_num_right(head, answer))
    all_chains = [chain for answer in chains for chain in answer]
    return Acceptance(
        num_judged=tuple(
            sum(right >= place and most > place for right, most in all_chains)
            for place in range(MAX_DRAFTS)
        ),
        num_right=tuple(
            sum(right > place for right, _ in all_chains) for place in range(MAX_DRAFTS)
        ),
        num_tokens=len(all_chains),
        num_passes=sum(_num_passes([right for right, _ in answer]) for answer in chains),
    )


def _prompts(example: Example) -> list[list[int]]:
    firsts = [example.answer.index(answer) for answer in range(max(example.answer) + 1)]
    return [list(example.ids[:first]) for first in firsts]


def _answer(
    trunk: Qwen3_5ForCausalLM, prompt: Sequence[int], seed: int, temperature: float
) -> _SampledAnswer:
    generator = torch.Generator().manual_seed(seed)
    shape = (_MAX_ANSWER_TOKENS, trunk.config.vocab_size)
    # The logarithm of exponential noise is negated Gumbel noise.
    noise_AV = torch.empty(shape).exponential_(generator=generator).log() * -temperature
    cache = DynamicCache(config=trunk.config)
    ids, hidden, pending = list(prompt), list[torch.Tensor](), list(prompt)
    for noise_V in noise_AV:
        passed = trunk.model(input_ids=torch.tensor([pending]), past_key_values=cache)
        hidden.append(passed.last_hidden_state)
        logits_V = trunk.lm_head(hidden[-1][0, -1])
        pending = [int((logits_V + noise_V).argmax())]
        ids += pending
        if pending[0] == trunk.config.eos_token_id:
            break
    return _SampledAnswer(ids, len(prompt), torch.cat(hidden, dim=1), noise_AV)


def _num_right(head: MtpModel, answer: _SampledAnswer) -> list[tuple[int, int]]:
    """For the chain from each token of the answer but the last: right drafts, and judged drafts,
    which the end of the answer limits.
    """
    ids_T = torch.tensor(answer.ids)
    num_chains = len(answer.ids) - answer.num_prompt - 1
    # A step at position p drafts the token at p + 1; the answer's first token is at `num_prompt`.
    first = answer.num_prompt - 1
    is_right = []
    for output_1PC in chained(head, ids_T[None], answer.hidden_1TC, MAX_DRAFTS):
        logits_AV = head.shared_head(output_1PC[0, first : first + num_chains])
        drafts_A = (logits_AV + answer.noise_AV[1 : num_chains + 1]).argmax(dim=-1)
        is_right.append((drafts_A == ids_T[answer.num_prompt + 1 :]).tolist())
    chains = []
    for start in range(num_chains):
        most = min(MAX_DRAFTS, num_chains - start)
        marks = [is_right[step][start + step] for step in range(most)]
        chains.append((marks.index(False) if False in marks else most, most))
    return chains


def _num_passes(num_right: Sequence[int]) -> int:
    """The passes from the first to the last token of an answer. `num_right` is per starting
    token."""
    num_passes = position = 0
    while position < len(num_right):
        position += num_right[position] + 1
        num_passes += 1
    return num_passes
