"""The attention that training rewards, and rows of random tokens to practise on."""

import pytest
import torch
import torch.nn.functional as F
from transformers import Qwen3_5ForCausalLM

from segue.demo.corpus.examples import repeats
from segue.demo.looking_back import attention_of, followers, looking_loss, reset_attention, watched
from segue.demo.network import hold_memory, new_network, shorten_memory

TOKENS = range(100, 1100)


@pytest.fixture(scope="module")
def network() -> Qwen3_5ForCausalLM:
    torch.manual_seed(0)
    network = new_network(1100)
    reset_attention(attention_of(network))
    return network


def test_a_follower_is_the_next_token_after_the_same_two() -> None:
    ids = torch.tensor([[1, 2, 3, 9, 1, 2, 3, 1, 3]])

    found = followers(ids)[0]

    # After the second "1 2" the next token is 3, which follows the first at position 2; "2 3"
    # continues differently.
    assert found.nonzero().tolist() == [[5, 2]]


@pytest.mark.parametrize("seed", range(5))
def test_a_predictable_token_occurred_earlier_in_the_row(seed: int) -> None:
    ids, is_known = repeats(seed, TOKENS, 300)

    assert len(ids) == len(is_known) == 300
    assert set(ids) <= set(TOKENS)
    assert sum(is_known) > 50
    found = followers(torch.tensor([ids]))[0]
    assert all(found[place - 1].any() for place, known in enumerate(is_known) if known)


def test_the_loss_counts_attention_to_other_positions(network: Qwen3_5ForCausalLM) -> None:
    ids, _ = repeats(0, TOKENS, 64)
    ids_BT = torch.tensor([ids])
    attention = attention_of(network)
    with watched(attention) as called:
        network.model(input_ids=ids_BT, use_cache=False)

    everywhere = torch.ones(1, 63, 63, dtype=torch.bool).tril()
    nothing_missed = looking_loss(attention, called, everywhere)
    missed = looking_loss(attention, called, followers(ids_BT))

    torch.testing.assert_close(nothing_missed, torch.tensor(0.0), atol=1e-5, rtol=0)
    assert missed > 1.0


def test_values_are_reproduced(network: Qwen3_5ForCausalLM) -> None:
    attention = attention_of(network)
    through = (
        attention.o_proj.weight.view(256, 2, 2, 64).sum(2).flatten(1) @ attention.v_proj.weight
    )

    # Within the space that the keys' heads span, everything is kept.
    torch.testing.assert_close(through @ through, through * through.trace() / 128)


def test_only_calls_within_the_context_are_watched(network: Qwen3_5ForCausalLM) -> None:
    ids_BT = torch.tensor([[100, 101, 102]])
    with watched(attention_of(network)) as called:
        pass

    network.model(input_ids=ids_BT, use_cache=False)

    assert not called


def test_the_weights_that_bound_the_memory_are_not_trained() -> None:
    torch.manual_seed(0)
    network = new_network(50)
    shorten_memory(network)
    hold_memory(network)
    before = {name: weight.clone() for name, weight in network.named_parameters()}
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.5)

    ids = torch.randint(0, 50, (2, 40))
    network(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()

    held = ("A_log", "dt_bias", "in_proj_a.weight")
    unchanged = {name for name, w in network.named_parameters() if torch.equal(w, before[name])}
    assert unchanged == {name for name in before if name.endswith(held)}
    assert len(unchanged) == 9
    for layer in range(3):
        mixer = network.model.layers[layer].linear_attn
        decay = mixer.A_log.exp() * F.softplus(mixer.dt_bias)
        assert decay.tolist() == pytest.approx([0.15, 0.3, 0.6, 1.2], rel=1e-4)
