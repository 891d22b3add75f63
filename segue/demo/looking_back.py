"""Teaches the attention layer to attend to what followed earlier occurrences of the current words.

The layer starts with random weights, next to gated delta nets whose memory is too short to copy
(`network.shorten_memory`). An additional loss shows it which earlier tokens to attend to.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import Qwen3_5ForCausalLM
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5Attention, apply_rotary_pos_emb

# Shape letters: B = rows, T = tokens of a row, P = positions that have a next token, C = hidden
# size, H = query heads, D = head dimensions.

_TAUGHT_HEADS = (0, 2)
"""One query head per key/value head; the others learn freely."""
_NORM = 0.5
"""Added to 1. With less, no score stands out among a thousand."""
_OUTPUT_SCALE = 4.0


def attention_of(model: Qwen3_5ForCausalLM) -> Qwen3_5Attention:
    """The only attention layer."""
    (attention,) = (part for part in model.modules() if isinstance(part, Qwen3_5Attention))
    return attention


@torch.no_grad()
def reset_attention(attention: Qwen3_5Attention) -> None:
    """Random queries and keys, half-open gates, and an output projection that reproduces values."""
    width = attention.q_proj.in_features
    queries, gates = attention.q_proj.weight.view(-1, 2, attention.head_dim, width).unbind(1)
    queries.normal_(std=width**-0.5)
    gates.zero_()
    attention.k_proj.weight.normal_(std=width**-0.5)
    torch.nn.init.orthogonal_(attention.v_proj.weight)
    values = attention.v_proj.weight.view(-1, attention.head_dim, width)
    outputs = values.repeat_interleave(attention.num_key_value_groups, dim=0).flatten(0, 1)
    attention.o_proj.weight.copy_(outputs.T * _OUTPUT_SCALE)
    attention.q_norm.weight.fill_(_NORM)
    attention.k_norm.weight.fill_(_NORM)


@contextmanager
def watched(attention: Qwen3_5Attention) -> Iterator[dict[str, Any]]:
    """Records the layer's keyword arguments while the context lasts."""
    called: dict[str, Any] = {}
    hook = attention.register_forward_pre_hook(
        lambda _module, _args, named: called.update(named), with_kwargs=True
    )
    with hook:
        yield called


def followers(ids_BT: torch.Tensor) -> torch.Tensor:
    """For each token, the earlier positions that reveal the next token, [B, P, P]: those of the
    same token after the same two tokens.
    """
    num_tokens = ids_BT.shape[1]
    # same[b, i, j]: the tokens i and j of the row are equal.
    same_BTT = ids_BT[:, :, None] == ids_BT[:, None, :]
    is_found = torch.zeros(len(ids_BT), num_tokens - 1, num_tokens - 1, dtype=torch.bool)
    is_found[:, 1:, 2:] = same_BTT[:, 2:, 2:-1] & same_BTT[:, 1:-1, 1:-2] & same_BTT[:, :-2, :-3]
    return is_found.tril()


def looking_loss(
    attention: Qwen3_5Attention, called: Mapping[str, Any], found_BPP: torch.Tensor
) -> torch.Tensor:
    """The mean negative log of the attention to found positions, over tokens that have any.

    `called` has the layer's arguments for rows of P + 1 tokens.
    """
    num_places = found_BPP.shape[1]
    hidden_BPC = called["hidden_states"][:, :num_places]
    cos, sin = (part[:, :num_places] for part in called["position_embeddings"])
    shape = (*hidden_BPC.shape[:2], -1, attention.head_dim)
    queries = attention.q_proj(hidden_BPC).view(*shape[:2], -1, 2 * attention.head_dim)
    q_BHPD = attention.q_norm(queries[..., : attention.head_dim]).transpose(1, 2)
    k_BHPD = attention.k_norm(attention.k_proj(hidden_BPC).view(shape)).transpose(1, 2)
    q_BHPD, k_BHPD = apply_rotary_pos_emb(q_BHPD, k_BHPD, cos, sin)
    heads = list(_TAUGHT_HEADS)
    of_keys = [head // attention.num_key_value_groups for head in heads]
    products = (q_BHPD[:, heads] @ k_BHPD[:, of_keys].transpose(2, 3)).float()
    future = torch.ones(num_places, num_places, dtype=torch.bool).triu(1)
    shares = (products * attention.scaling).masked_fill(future, -torch.inf).log_softmax(dim=-1)
    is_taught_BP = found_BPP.any(dim=-1)
    elsewhere = ~found_BPP[is_taught_BP][:, None]
    on_found = shares.transpose(1, 2)[is_taught_BP].masked_fill(elsewhere, -torch.inf)
    on_any_found: torch.Tensor = on_found.logsumexp(dim=-1)
    return -on_any_found.mean()
