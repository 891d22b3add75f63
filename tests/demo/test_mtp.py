"""The draft layer: read like transformers, chained correctly, and usually right about the trunk."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import Qwen3_5ForCausalLM
from transformers.cache_utils import MtpCache
from transformers.modeling_layers import MtpModel

from segue.demo import checkpoint_dir
from segue.demo.acceptance import acceptance
from segue.demo.evaluate import held_out
from segue.demo.mtp import chained, has_head, load_head, load_trunk, save_head
from segue.demo.stages import TrainingStage
from segue.demo.train import batch
from segue.demo.train_mtp import loss_of


@pytest.fixture(scope="module")
def trunk() -> Qwen3_5ForCausalLM:
    return load_trunk(checkpoint_dir()).requires_grad_(False)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(checkpoint_dir() / "tokenizer.json"))


@pytest.mark.parametrize("first", [1, 2, 7])
@torch.inference_mode()
def test_batched_chains_equal_single_chains(first: int) -> None:
    # In float64, since the order of summation differs.
    trunk = load_trunk(checkpoint_dir()).double()
    head = load_head(trunk).double()
    ids = torch.randint(0, 1500, (1, 12), generator=torch.Generator().manual_seed(0))
    hidden = trunk.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    cache = MtpCache(config=head.config)
    positions = torch.arange(1, 12)[None]

    at_once = chained(head, ids, hidden, 4)

    # The oracle's own steps: up to the chain's start, then only on its output.
    first_ids, first_positions = ids[:, 1 : first + 1], positions[:, :first]
    output = head.forward_layer(0, hidden[:, :first], first_positions, cache, input_ids=first_ids)
    for step in range(4):
        position = first + step
        torch.testing.assert_close(at_once[step][:, position - 1], output[:, -1])
        output = head.forward_layer(
            0,
            output[:, -1:],
            positions[:, position : position + 1],
            cache,
            input_ids=ids[:, position + 1 : position + 2],
        )


@pytest.mark.slow
def test_most_drafts_are_the_trunks_own_tokens(
    trunk: Qwen3_5ForCausalLM, tokenizer: Tokenizer
) -> None:
    examples = held_out(tokenizer, 2)
    head = load_head(trunk)

    greedy = acceptance(trunk, head, examples, temperature=0.0)
    drawn = acceptance(trunk, head, examples, temperature=0.7)

    assert min(greedy.rates[0], drawn.rates[0]) > 0.85
    assert min(greedy.rates) > 0.7
    assert min(greedy.tokens_per_pass, drawn.tokens_per_pass) > 2.5


def test_an_untrained_layers_drafts_are_wrong(
    trunk: Qwen3_5ForCausalLM, tokenizer: Tokenizer
) -> None:
    torch.manual_seed(0)
    examples = held_out(tokenizer, 1, min_chars=600)

    accepted = acceptance(trunk, MtpModel(trunk, 1), examples, temperature=0.0)

    assert accepted.rates[0] < 0.1
    assert accepted.tokens_per_pass < 1.1


def test_saving_a_layer_changes_nothing_else(tmp_path: Path, trunk: Qwen3_5ForCausalLM) -> None:
    folder = shutil.copytree(checkpoint_dir(), tmp_path / "checkpoint")
    head = MtpModel(trunk, 1)

    save_head(head, folder)

    before = load_file(checkpoint_dir() / "model.safetensors")
    after = load_file(folder / "model.safetensors")
    assert after.keys() == before.keys()
    assert all(
        torch.equal(after[name], before[name]) for name in before if not name.startswith("mtp.")
    )
    assert torch.equal(after["mtp.fc.weight"], head.layers[0].eh_proj.weight)
    configs = [json.loads((at / "config.json").read_text()) for at in (checkpoint_dir(), folder)]
    assert configs[0] == configs[1]
    assert has_head(folder)


def test_only_the_draft_layer_is_trained(trunk: Qwen3_5ForCausalLM, tokenizer: Tokenizer) -> None:
    head = MtpModel(trunk, 1)

    loss = loss_of(trunk, head, batch(tokenizer, TrainingStage(1, 2, 64), 0), num_chained=3)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    assert all(weight.grad is not None for weight in head.layers.parameters())
    assert all(weight.grad is None for weight in trunk.parameters())
