"""Trains the demo model's draft layer: `python -m segue.demo.train_mtp DIR [--start FOLDER]`.

Run it after `train DIR`. Only the layer is trained; the trunk in DIR is its teacher and stays
bit-identical. The layer learns the trunk's distribution, not the corpus: a draft is right if the
trunk chooses the same token. It also learns from its own outputs, as in chains of drafts. A run is
a function of its steps, and of the checkpoint in FOLDER, if given.
"""

import logging
import time
from pathlib import Path

import torch
import torch.nn.functional as F
import typer
from tokenizers import Tokenizer

from segue.demo import NEEDS_DEV

try:
    from transformers import Qwen3_5ForCausalLM
    from transformers.modeling_layers import MtpModel
except ModuleNotFoundError:
    raise SystemExit(NEEDS_DEV) from None

from segue.demo.corpus.conversations import LATE_WEIGHTS, TOOL_WEIGHTS
from segue.demo.mtp import chained, load_head, load_trunk, save_head
from segue.demo.stages import TrainingStage
from segue.demo.train import TrainingBatch, batch, learning_rate

logger = logging.getLogger(__name__)

# Each with its chain length. A further step of a chain costs half as much as a batch, and requires
# that the first step copies.
STAGES = (
    (TrainingStage(600, 8, 128), 1),
    (TrainingStage(500, 4, 256, TOOL_WEIGHTS), 1),
    (TrainingStage(500, 4, 256, TOOL_WEIGHTS), 3),
    (TrainingStage(400, 2, 512, LATE_WEIGHTS), 3),
)
# The weights of a chain's steps in the loss. Step j counts only if the drafts before it were right.
STEP_WEIGHTS = (1.0, 0.7, 0.5)
LOG_STEPS = 50
SAVE_STEPS = 200


def loss_of(
    trunk: Qwen3_5ForCausalLM, head: MtpModel, batch: TrainingBatch, num_chained: int
) -> torch.Tensor:
    """The steps' weighted cross-entropy with the trunk's distribution, over all drafts. An answer's
    first token and the user's words are never drafted.
    """
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        hidden_BTC = trunk.model(input_ids=batch.ids_BT, use_cache=False).last_hidden_state
    hidden_BTC = hidden_BTC.float()
    weight_BP = F.pad(batch.weight_BT[:, 2:], (0, 1))
    is_drafted_BP = batch.weight_BT[:, 1:] > 0
    losses = []
    for output_BPC in chained(head, batch.ids_BT, hidden_BTC[:, :-1], num_chained):
        is_drafted_BP = is_drafted_BP & (weight_BP > 0)
        with torch.no_grad():
            taught = trunk.lm_head(hidden_BTC[:, 1:][is_drafted_BP]).softmax(dim=-1)
        drafted = trunk.lm_head(output_BPC[is_drafted_BP])
        weights = weight_BP[is_drafted_BP]
        each = F.cross_entropy(drafted, taught, reduction="none")
        losses.append((each * weights).sum() / weights.sum())
        is_drafted_BP = F.pad(is_drafted_BP, (1, -1))
    step_weights = torch.tensor(STEP_WEIGHTS[:num_chained])
    return (torch.stack(losses) * step_weights).sum() / step_weights.sum()


def main(out: Path, start: Path | None = None, share: float = 1.0) -> None:
    """Trains a draft layer for the checkpoint in OUT and writes it there.

    SHARE: the part of each stage's steps to take. Less than 1 is enough if START has a similar
    trunk.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    trunk = load_trunk(out).requires_grad_(False)
    head = MtpModel(trunk, num_mtp_layers=1)
    if start is not None:
        head.layers.load_state_dict(load_head(load_trunk(start)).layers.state_dict())
    learnt = list(head.layers.parameters())
    optimizer = torch.optim.AdamW(learnt, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    steps = [
        (stage, chain) for stage, chain in STAGES for _ in range(round(stage.num_steps * share))
    ]
    started_s, losses = time.monotonic(), list[float]()
    for step, (stage, num_chained) in enumerate(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, len(steps))
        loss = loss_of(trunk, head, batch(tokenizer, stage, step), num_chained)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if (step + 1) % LOG_STEPS == 0:
            minutes = (time.monotonic() - started_s) / 60
            logger.info("step %d loss %.3f, %.1f min", step + 1, sum(losses) / len(losses), minutes)
            losses.clear()
        if (step + 1) % SAVE_STEPS == 0 or step + 1 == len(steps):
            save_head(head, out)


if __name__ == "__main__":
    typer.run(main)
