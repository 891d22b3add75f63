"""The demo model's draft layer (MTP): as in transformers, chained as in a decode worker.

At position p the layer reads the token there and the trunk's hidden state at p - 1. Its output m_p
yields the logits of a draft for p + 1. The layer then continues alone, with the draft as the token
and m_p as the hidden state: step j of the chain that started at p is at p + j - 1.
"""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import DynamicCache, Qwen3_5ForCausalLM
from transformers.modeling_layers import MtpModel

# Shape letters: B = rows, T = tokens of a row, P = its positions from 1 on, C = hidden size.

# Parts of the layer: the name in a checkpoint, and transformers' name.
_NAMES = {
    "mtp.fc.": "layers.0.eh_proj.",
    "mtp.pre_fc_norm_embedding.": "layers.0.enorm.",
    "mtp.pre_fc_norm_hidden.": "layers.0.hnorm.",
    "mtp.layers.0.": "layers.0.mtp_block.",
    "mtp.norm.": "layers.0.post_norm.",
}
_WEIGHTS_FILE = "model.safetensors"


def load_trunk(folder: Path) -> Qwen3_5ForCausalLM:
    """The model without its draft layer, with a config from which a layer can be created."""
    trunk = Qwen3_5ForCausalLM.from_pretrained(folder)
    # transformers' names for config.json's mtp_num_hidden_layers.
    trunk.config.num_mtp_layers = 1
    trunk.config.mtp_layer_types = ["full_attention"]
    return trunk


def has_head(folder: Path) -> bool:
    """Whether the checkpoint in `folder` has a draft layer."""
    config = json.loads((folder / "config.json").read_text())
    return bool(config.get("mtp_num_hidden_layers", 0))


def load_head(trunk: Qwen3_5ForCausalLM) -> MtpModel:
    """The draft layer in the checkpoint of `trunk`, which must come from `load_trunk`."""
    return MtpModel.from_pretrained(trunk)


def save_head(head: MtpModel, folder: Path) -> None:
    """Writes the draft layer into the checkpoint in `folder`. The trunk's tensors stay
    unchanged."""
    tensors = load_file(folder / _WEIGHTS_FILE)
    state = head.state_dict()
    for name, theirs in _NAMES.items():
        parts = {key.removeprefix(theirs): key for key in state if key.startswith(theirs)}
        tensors |= {name + part: state[key] for part, key in parts.items()}
    save_file(tensors, folder / _WEIGHTS_FILE, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["mtp_num_hidden_layers"] = len(head.layers)
    text = json.dumps(config, indent=2, sort_keys=True)
    (folder / "config.json").write_text(text + "\n")


def chained(
    head: MtpModel, ids_BT: torch.Tensor, hidden_BPC: torch.Tensor, num_steps: int
) -> list[torch.Tensor]:
    """The layer's output at positions 1 … T-1 for each step of the chains, [B, P, C] each.

    All chains run at once, as if every draft had been right: step j at p belongs to the chain that
    started at p - j + 1, and is undefined if that is before position 1. `hidden_BPC` is the trunk's
    hidden state after its final norm, at positions 0 … T-2.
    """
    embedded_BPC = head.embed_tokens(ids_BT[:, 1:])
    positions_1P = torch.arange(1, ids_BT.shape[1])[None]
    rotations = head.rotary_emb(embedded_BPC, position_ids=positions_1P)
    # Every step appends its keys and values; the mask selects those that a chain can see.
    cache = DynamicCache()
    outputs = []
    for step in range(1, num_steps + 1):
        output_BPC = head.layers[0](
            embedded_BPC,
            hidden_BPC,
            position_embeddings=rotations,
            attention_mask=_visible(positions_1P.shape[1], step),
            position_ids=positions_1P,
            past_key_values=cache,
        )
        outputs.append(output_BPC)
        hidden_BPC = F.pad(output_BPC, (0, 0, 1, -1))
    return outputs


def _visible(num_positions: int, step: int) -> torch.Tensor:
    """The attention mask of a step's queries, [1, 1, P, step · P], with the keys of step 1 first.

    A chain sees the keys of step 1 up to its start, and then those of its own steps.
    """
    square = torch.ones(num_positions, num_positions, dtype=torch.bool)
    blocks = [square.tril(1 - step)]
    blocks += [
        torch.diag(torch.ones(num_positions + own - step, dtype=torch.bool), own - step)
        for own in range(2, step + 1)
    ]
    return torch.cat(blocks, dim=1)[None, None]
