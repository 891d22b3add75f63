"""The demo model's shape, and initial weights from which it learns recall in minutes."""

from collections.abc import Iterator

import torch
from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet

MAX_POSITIONS = 8192
# Decay per token of the value heads, slowest and fastest: a memory of 1,000 tokens and of 3.
_DECAYS = (1e-3, 10**-0.5)
# Memories of 7 tokens down to 1.
_SHORT_DECAYS = (0.15, 1.2)
# Per key head, a query's weights for the current token and the tokens before it. A key has the same
# weights one token later, so a query finds the token after earlier occurrences of its words.
_CONTEXTS = ((1.0, 0.5, 0.0), (1.0, 1.0, 1.0))


def network_config(num_tokens: int) -> Qwen3_5TextConfig:
    """Three gated delta nets to one attention layer, with grouped heads as in the real models."""
    hidden_size = 256
    return Qwen3_5TextConfig(
        vocab_size=num_tokens,
        hidden_size=hidden_size,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        linear_num_key_heads=len(_CONTEXTS),
        linear_num_value_heads=4,
        linear_key_head_dim=64,
        linear_value_head_dim=64,
        linear_conv_kernel_dim=4,
        max_position_embeddings=MAX_POSITIONS,
        # The default of 0.02 does not learn at this width.
        initializer_range=hidden_size**-0.5,
        tie_word_embeddings=True,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.25,
            "mrope_section": [3, 3, 2],
            "mrope_interleaved": True,
        },
    )


@torch.no_grad()
def new_network(num_tokens: int) -> Qwen3_5ForCausalLM:
    """A network whose gated delta nets start as tables from a few words to the next word.

    With transformers' own initial values most heads forget within a token. With slow decays alone
    no value was copied after 200,000 tokens; with keys that look back, a third of the facts were.
    """
    network = Qwen3_5ForCausalLM(network_config(num_tokens))
    for mixer in _mixers(network):
        _set_decays(mixer, *_DECAYS)
        _look_up_what_followed(mixer.in_proj_qkv.weight, mixer.conv1d.weight[:, 0])
    return network


@torch.no_grad()
def shorten_memory(network: Qwen3_5ForCausalLM) -> None:
    """Makes the gated delta nets forget within about ten tokens, regardless of the input.

    Only attention can then find earlier tokens. Otherwise the gated delta nets learn to copy first,
    and attention never does.
    """
    for mixer in _mixers(network):
        _set_decays(mixer, *_SHORT_DECAYS)
        mixer.in_proj_a.weight.zero_()


def hold_memory(network: Qwen3_5ForCausalLM) -> None:
    """Excludes the gated delta nets' decays from training."""
    for mixer in _mixers(network):
        for weight in (mixer.A_log, mixer.dt_bias, mixer.in_proj_a.weight):
            weight.requires_grad_(False)


def _mixers(network: Qwen3_5ForCausalLM) -> Iterator[Qwen3_5GatedDeltaNet]:
    return (part for part in network.modules() if isinstance(part, Qwen3_5GatedDeltaNet))


def _set_decays(mixer: Qwen3_5GatedDeltaNet, slowest: float, fastest: float) -> None:
    """Spreads the heads' decays; softplus(dt_bias) is the decay at zero input."""
    a_log, dt_bias = mixer.A_log, mixer.dt_bias
    exponents = torch.linspace(0, 1, len(dt_bias))
    decay = slowest * (fastest / slowest) ** exponents
    a_log.zero_()
    dt_bias.copy_(decay + torch.log(-torch.expm1(-decay)))


def _look_up_what_followed(projection: torch.Tensor, kernel: torch.Tensor) -> None:
    """Makes keys equal the queries of one token earlier. Rows of both are [q, k, v]; see
    `_CONTEXTS`.
    """
    num_keys = len(projection) // 4
    width = num_keys // len(_CONTEXTS)
    projection[num_keys : 2 * num_keys] = projection[:num_keys]
    kernel.zero_()
    # The last tap of the convolution is the current token.
    for head, context in enumerate(_CONTEXTS):
        first = head * width
        kernel[first : first + width, 1:] = torch.tensor(context).flip(0)
        kernel[num_keys + first : num_keys + first + width, :3] = torch.tensor(context).flip(0)
    kernel[2 * num_keys :, -1] = 1.0
