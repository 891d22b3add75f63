"""The gated delta rule in plain PyTorch, float32 throughout.

A head keeps a state S [K, V]. Token t, with key k, value v, decay a = exp(log_decay) and rate b:

    S ← a S                      forget
    S ← S + k ⊗ b (v - Sᵀ k)     replace what the state recalls for this key
    o = Sᵀ q

Queries and keys are first normalised to length one, and queries scaled by K^-½.

`gated_delta_rule_decode` applies these lines to one token of every sequence at once, since the
state after each token is needed. `gated_delta_rule_prefill` gets the same result from few large
products: within a chunk of C tokens the corrections b (v - Sᵀ k) of all tokens solve one unit lower
triangular system (the WY form), so only the chunks are sequential.

T packed tokens, N sequences of a prefill, M prefill segments, D sequences of a decode, S slots, G
key heads, H value heads (a multiple of G; key head g serves adjacent value heads), K and V head
dimensions, B chunks of a segment, C tokens of a chunk. X = T H heads of all rows, Y those of one
draft round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from segue.kernels import NO_SLOT
from segue.kernels.constants import constant

CHUNK_TOKENS = 64
L2_EPS = 1e-6


def gated_delta_rule_decode(
    q_TGK: Tensor,
    k_TGK: Tensor,
    v_THV: Tensor,
    log_decay_TH: Tensor,
    rate_TH: Tensor,
    state_SHKV: Tensor,
    *,
    slots_in_D: Tensor,
    slots_out_T: Tensor,
    round_sizes: Sequence[int],
) -> Tensor:
    """Outputs [T, H, V] in float32 of a few tokens a sequence; `state` is updated in place.

    Rows are stored one draft round after another: round j has the j-th token of the first
    `round_sizes[j]` sequences, at most as many as in the previous round. Sequence d continues from
    slot `slots_in[d]`, which is read-only. After each token it leaves the state in the
    `slots_out` of that row. A sequence's `slots_out` may include its own `slots_in`. No slot may be
    written twice, or written by one sequence and read by another. On a GPU -1 in `slots_out` writes
    nothing, for padding in a captured step.

    `log_decay` and `rate` are float32, `state` [S, H, K, V] float32, the rest any dtype.
    Everything is computed in float32.
    """
    num_tokens, num_k_heads, k_dim = q_TGK.shape
    num_v_heads, v_dim = v_THV.shape[1:]
    heads = (2, num_tokens, num_k_heads, num_v_heads // num_k_heads, k_dim)
    unit_T2G1K = _unit(torch.cat([k_TGK, q_TGK], dim=1)).view(num_tokens, 2, num_k_heads, 1, k_dim)
    key_X1K, query_X1K = unit_T2G1K.transpose(0, 1).expand(heads).reshape(2, -1, 1, k_dim)
    decay_X11, rate_X11 = log_decay_TH.exp().view(-1, 1, 1), rate_TH.reshape(-1, 1, 1)
    # b (v - (a S)ᵀ k) takes one product with the state before the token.
    value_X1V = v_THV.float().reshape(-1, 1, v_dim) * rate_X11
    read_X1K = key_X1K * (rate_X11 * decay_X11)

    states_XKV = state_SHKV.new_empty(num_tokens * num_v_heads, k_dim, v_dim)
    sizes = [size * num_v_heads for size in round_sizes]
    parts = (value_X1V, read_X1K, decay_X11, key_X1K.mT, states_XKV)
    before_YKV = state_SHKV.index_select(0, slots_in_D).view(-1, k_dim, v_dim)
    for value, read, decay, key, state_YKV in zip(*(p.split(sizes) for p in parts), strict=True):
        before_YKV = before_YKV[: len(state_YKV)]
        correction = torch.baddbmm(value, read, before_YKV, alpha=-1)
        torch.mul(before_YKV, decay, out=state_YKV).addcmul_(key, correction)
        before_YKV = state_YKV
    state_SHKV.index_copy_(0, slots_out_T, states_XKV.view(-1, *state_SHKV.shape[1:]))
    out_X1V = torch.bmm(query_X1K, states_XKV).mul_(constant(k_dim**-0.5, q_TGK.device))
    return out_X1V.view(num_tokens, num_v_heads, v_dim)


def gated_delta_rule_prefill(
    q_TGK: Tensor,
    k_TGK: Tensor,
    v_THV: Tensor,
    log_decay_TH: Tensor,
    rate_TH: Tensor,
    state_SHKV: Tensor,
    *,
    cu_tokens_M1: Tensor,
    slots_out_M: Tensor,
    cu_segments_N1: Tensor,
    slots_in_N: Tensor,
) -> Tensor:
    """Outputs [T, H, V] in float32 of packed sequences; `state` is updated in place.

    Segment m is rows cu_tokens[m] to cu_tokens[m + 1], at least one, and leaves its state in slot
    `slots_out[m]`. Sequence n is segments cu_segments[n] to cu_segments[n + 1]. Each segment starts
    where the previous one ends; the first continues from slot `slots_in[n]` (`NO_SLOT`: zeros). No
    slot may be written twice, or read by one sequence and written by another. Dtypes are as for
    decode.
    """
    bounds, slots_out = cu_tokens_M1.tolist(), slots_out_M.tolist()
    out_THV = torch.empty(v_THV.shape, dtype=torch.float32, device=v_THV.device)
    for slot_in, (first, end) in zip(
        slots_in_N.tolist(), pairwise(cu_segments_N1.tolist()), strict=True
    ):
        state_HKV = torch.zeros_like(state_SHKV[0]) if slot_in == NO_SLOT else state_SHKV[slot_in]
        for m in range(first, end):
            rows = slice(bounds[m], bounds[m + 1])
            chunks = _Chunks.of(
                q_TGK[rows], k_TGK[rows], v_THV[rows], log_decay_TH[rows], rate_TH[rows]
            )
            out_THV[rows], state_HKV = chunks.scan(state_HKV)
            state_SHKV[slots_out[m]] = state_HKV
    return out_THV


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chunks:
    """One sequence cut into chunks: everything that does not depend on the state before it."""

    num_tokens: int
    corrections_BHCV: Tensor
    """The tokens' corrections if the state before the chunk were zero."""
    reads_BHCK: Tensor
    """Multiplied by the state before the chunk: what that state subtracts from the corrections."""
    queries_BHCK: Tensor
    """Decayed since the chunk's start."""
    attention_BHCC: Tensor
    """How much of token j's correction token i sees."""
    keys_BHKC: Tensor
    """Decayed until the chunk's end."""
    decay_BH11: Tensor
    """Of the state, over the whole chunk."""

    @classmethod
    def of(
        cls, q_TGK: Tensor, k_TGK: Tensor, v_THV: Tensor, log_decay_TH: Tensor, rate_TH: Tensor
    ) -> _Chunks:
        num_tokens, num_k_heads, k_dim = q_TGK.shape
        num_v_heads = v_THV.shape[1]
        repeats = num_v_heads // num_k_heads
        q_BGCK = _cut(_unit(q_TGK) * k_dim**-0.5)
        k_BGCK = _cut(_unit(k_TGK))
        v_BHCV = _cut(v_THV.float())
        rate_BHC1 = _cut(rate_TH.unsqueeze(-1))
        # float64: the sums reach hundreds if a head forgets fast, and what matters is the small
        # difference between neighbours, which would lose two digits in float32.
        elapsed_BHC1 = _cut(log_decay_TH.double().unsqueeze(-1)).cumsum(2)

        between_BHCC = _decay_between(elapsed_BHC1)
        since_start_BHC1 = elapsed_BHC1.float().exp()
        until_end_BHC1 = (elapsed_BHC1[:, :, -1:] - elapsed_BHC1).float().exp()
        key_key_BHCC = _per_value_head(k_BGCK @ k_BGCK.mT, repeats)
        query_key_BHCC = _per_value_head(q_BGCK @ k_BGCK.mT, repeats)
        q_BHCK, k_BHCK = _per_value_head(q_BGCK, repeats), _per_value_head(k_BGCK, repeats)

        # (I + L) x = right side, L strictly lower. The solver ignores the given diagonal.
        system_BHCC = key_key_BHCC * between_BHCC * rate_BHC1
        right_side = torch.cat([v_BHCV, k_BHCK * since_start_BHC1], dim=-1) * rate_BHC1
        solved = torch.linalg.solve_triangular(
            system_BHCC, right_side, upper=False, unitriangular=True
        )
        corrections_BHCV, reads_BHCK = solved.split([v_BHCV.shape[-1], k_dim], dim=-1)
        return cls(
            num_tokens=num_tokens,
            corrections_BHCV=corrections_BHCV,
            reads_BHCK=reads_BHCK,
            queries_BHCK=q_BHCK * since_start_BHC1,
            attention_BHCC=query_key_BHCC * between_BHCC,
            keys_BHKC=(k_BHCK * until_end_BHC1).mT,
            decay_BH11=since_start_BHC1[:, :, -1:],
        )

    def scan(self, state_HKV: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs [T, H, V] and the state after the last token, from the state before the first."""
        outputs = []
        for b in range(self.corrections_BHCV.shape[0]):
            corrections_HCV = torch.baddbmm(
                self.corrections_BHCV[b], self.reads_BHCK[b], state_HKV, alpha=-1
            )
            out_HCV = self.queries_BHCK[b] @ state_HKV
            outputs.append(out_HCV.baddbmm_(self.attention_BHCC[b], corrections_HCV))
            state_HKV = torch.baddbmm(
                state_HKV * self.decay_BH11[b], self.keys_BHKC[b], corrections_HCV
            )
        out_HTV = torch.cat(outputs, dim=1)
        return out_HTV[:, : self.num_tokens].transpose(0, 1), state_HKV


def _unit(x: Tensor) -> Tensor:
    """Rows of length one, in float32."""
    x = x.float()
    return x * (x * x).sum(-1, keepdim=True).add_(constant(L2_EPS, x.device)).rsqrt_()


def _cut(x_THX: Tensor) -> Tensor:
    """[T, H, X] → [B, H, C, X]. The last chunk is padded with zeros, which change no state."""
    num_tokens, num_heads, width = x_THX.shape
    chunk_tokens = min(CHUNK_TOKENS, num_tokens)
    num_chunks = -(-num_tokens // chunk_tokens)
    missing = num_chunks * chunk_tokens - num_tokens
    if missing:
        x_THX = torch.cat([x_THX, x_THX.new_zeros(missing, num_heads, width)])
    return x_THX.view(num_chunks, chunk_tokens, num_heads, width).transpose(1, 2).contiguous()


def _decay_between(elapsed_BHC1: Tensor) -> Tensor:
    """exp(log decay from token j to token i) [B, H, C, C] for j <= i, else 0."""
    between_BHCC = (elapsed_BHC1 - elapsed_BHC1.mT).float()
    # Before exp: above the diagonal the differences are positive and may overflow.
    above = torch.ones_like(between_BHCC[0, 0], dtype=torch.bool).triu_(1)
    return between_BHCC.masked_fill_(above, -torch.inf).exp_()


def _per_value_head(x_BGYZ: Tensor, repeats: int) -> Tensor:
    return x_BGYZ.repeat_interleave(repeats, dim=1) if repeats > 1 else x_BGYZ
