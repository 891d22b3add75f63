"""Trains the demo model: `python -m segue.demo.train DIR [--part NAME] [--start FOLDER]`.

There are five parts. Each starts from the checkpoint of the previous one: `train A`, `train B
--part second --start A`, then `--part attention`, `--part last` and `--part polish`. `stages`
defines each part, and docs/LOG.md records the training of the committed checkpoint. The first part
may start from a checkpoint with another tokenizer, which saves more than a thousand steps.

Every batch is a function of its part and step, so a run is repeatable, and a stopped run continues
from `DIR/training.pt`.
"""

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import typer
from tokenizers import Tokenizer

from segue.demo import NEEDS_DEV

try:
    from transformers import GenerationConfig, Qwen3_5ForCausalLM
except ModuleNotFoundError:
    raise SystemExit(NEEDS_DEV) from None

from segue.demo.corpus.conversations import COPY_WEIGHTS, typed_conversation
from segue.demo.corpus.examples import encode, repeats, tokenizer_texts
from segue.demo.evaluate import accuracies, held_out
from segue.demo.looking_back import attention_of, followers, looking_loss, reset_attention, watched
from segue.demo.mtp import load_trunk
from segue.demo.network import MAX_POSITIONS, hold_memory, new_network, shorten_memory
from segue.demo.stages import PARTS, TrainingPart, TrainingStage
from segue.demo.tokenizer import (
    CONTROL_TOKENS,
    END_OF_TEXT,
    IM_END,
    MARKERS,
    save_tokenizer,
    train_tokenizer,
)

logger = logging.getLogger(__name__)

NUM_TOKENS = 1536
LEARNING_RATE = 2e-3
WARM_UP_STEPS = 50
CHARS_PER_TOKEN = 3.6
LOG_STEPS = 50
SAVE_STEPS = 300


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """Rows of token ids [rows, tokens], and the weight of each as a target in the loss."""

    ids_BT: torch.Tensor
    weight_BT: torch.Tensor


def batch(tokenizer: Tokenizer, stage: TrainingStage, step: int) -> TrainingBatch:
    """A step's batch: every row is a separate conversation, cut at the row's end."""
    ids, weights = [], []
    ordinary = range(NUM_TOKENS - len(CONTROL_TOKENS) - len(MARKERS))
    for row in range(stage.num_repeats):
        drawn, is_known = repeats(step * 1000 + row, ordinary, stage.row_tokens)
        ids.append(drawn)
        weights.append([float(known) for known in is_known])
    for row in range(stage.num_repeats, stage.num_rows):
        min_chars = int(stage.row_tokens * CHARS_PER_TOKEN)
        example = encode(tokenizer, typed_conversation(step * 1000 + row, min_chars, stage.weights))
        missing = max(0, stage.row_tokens - len(example.ids))
        weight = [
            (stage.copied_weight if is_copied else 1.0) if answer >= 0 else 0.0
            for answer, is_copied in zip(example.answer, example.is_copied, strict=True)
        ]
        ids.append([*example.ids, *[0] * missing][: stage.row_tokens])
        weights.append([*weight, *[0.0] * missing][: stage.row_tokens])
    return TrainingBatch(torch.tensor(ids), torch.tensor(weights))


def loss_of(
    model: Qwen3_5ForCausalLM, batch: TrainingBatch, looking_weight: float = 0.0
) -> torch.Tensor:
    """The weighted mean of the answers' negative log likelihood.

    `looking_weight` is the weight of the added loss for attention outside the copied places.
    """
    is_target = batch.weight_BT[:, 1:] > 0
    attention = attention_of(model)
    # Products in bfloat16 take half the time. Weights and sums stay in float32.
    with watched(attention) as called, torch.autocast("cpu", dtype=torch.bfloat16):
        hidden_BTC = model.model(input_ids=batch.ids_BT, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden_BTC[:, :-1][is_target])
    losses = F.cross_entropy(logits.float(), batch.ids_BT[:, 1:][is_target], reduction="none")
    weights = batch.weight_BT[:, 1:][is_target]
    loss = (losses * weights).sum() / weights.sum()
    if looking_weight:
        found = followers(batch.ids_BT) & is_target[..., None]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss + looking_weight * looking_loss(attention, called, found)
    return loss


def learning_rate(step: int, num_steps: int) -> float:
    """A linear warm-up, then half a cosine down to a twentieth."""
    warm_up = min(1.0, (step + 1) / WARM_UP_STEPS)
    return LEARNING_RATE * warm_up * (0.05 + 0.95 * (1 + math.cos(math.pi * step / num_steps)) / 2)


class Training:
    """A run: the model, its optimizer and the next step, stored together in `training.pt`."""

    def __init__(self, out: Path, part: TrainingPart, start: Path | None = None) -> None:
        """Starts a run in `out`, with the weights in `start` if given, or continues the run
        there."""
        self.out = out
        self.part = part
        self.tokenizer = (
            _saved_tokenizer(out)
            or (_saved_tokenizer(start) if start and part.first_step else None)
            or train_tokenizer(tokenizer_texts(3000), NUM_TOKENS)
        )
        self.model = new_network(NUM_TOKENS)
        if start is not None and not self._state_file.exists():
            take_over(self.model, self.tokenizer, start)
            if part.resets_attention:
                reset_attention(attention_of(self.model))
                shorten_memory(self.model)
        if part.holds_memory:
            hold_memory(self.model)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), betas=(0.9, 0.95), weight_decay=0.05, fused=True
        )
        self.stages = [stage for stage in part.stages for _ in range(stage.num_steps)]
        self.step = 0
        if self._state_file.exists():
            state = torch.load(self._state_file)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]

    @property
    def is_done(self) -> bool:
        """Whether all steps were taken."""
        return self.step == len(self.stages)

    def take_step(self) -> float:
        """Trains on the next batch. Returns its loss before the update."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.part.rate * learning_rate(self.step, len(self.stages))
        number = self.part.first_step + self.step
        stage = self.stages[self.step]
        loss = loss_of(self.model, batch(self.tokenizer, stage, number), stage.looking_weight)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss.item()

    def save(self) -> None:
        """Writes the checkpoint in the layout of a hub snapshot, and the state for a later run."""
        end, padding = (self.tokenizer.token_to_id(token) for token in (IM_END, END_OF_TEXT))
        self.model.config.eos_token_id, self.model.config.pad_token_id = end, padding
        self.model.generation_config = GenerationConfig(
            eos_token_id=[end, padding], pad_token_id=padding, do_sample=False
        )
        self.model.save_pretrained(self.out)
        save_tokenizer(self.tokenizer, MAX_POSITIONS, self.out)
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }
        torch.save(state, self._state_file)

    @property
    def _state_file(self) -> Path:
        return self.out / "training.pt"


def _saved_tokenizer(folder: Path) -> Tokenizer | None:
    file = folder / "tokenizer.json"
    return Tokenizer.from_file(str(file)) if file.exists() else None


def take_over(model: Qwen3_5ForCausalLM, tokenizer: Tokenizer, start: Path) -> None:
    """Copies the weights in `start` to `model`, with embeddings matched by the text of their
    tokens.

    A new token starts as the mean of the tokens that encoded its text.
    """
    theirs = Tokenizer.from_file(str(start / "tokenizer.json"))
    state = load_trunk(start).state_dict()
    embeddings_VC = state["model.embed_tokens.weight"]
    rows = torch.empty_like(model.model.embed_tokens.weight)
    known = theirs.get_vocab()
    for token, token_id in tokenizer.get_vocab().items():
        text = tokenizer.decode([token_id], skip_special_tokens=False)
        ids = [known[token]] if token in known else theirs.encode(text).ids
        rows[token_id] = embeddings_VC[ids].mean(dim=0)
    state |= {"model.embed_tokens.weight": rows, "lm_head.weight": rows}
    model.load_state_dict(state)


def main(out: Path, minutes: float = 120.0, part: str = "first", start: Path | None = None) -> None:
    """Trains into OUT, for at most MINUTES; the same command continues where it stopped.

    It starts with the weights in START; parts after the first also keep START's tokenizer.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.manual_seed(0)
    out.mkdir(parents=True, exist_ok=True)
    training = Training(out, PARTS[part], start)
    held = held_out(training.tokenizer, 20)
    exam = held_out(training.tokenizer, 20, weights=COPY_WEIGHTS, is_exam=True)
    ends_s = time.monotonic() + minutes * 60
    losses: list[float] = []
    while not training.is_done and time.monotonic() < ends_s:
        losses.append(training.take_step())
        if training.step % LOG_STEPS == 0:
            logger.info("step %d loss %.3f", training.step, sum(losses) / len(losses))
            losses.clear()
        if training.step % SAVE_STEPS == 0:
            for name, conversations in (("held out", held), ("unseen words", exam)):
                scores = accuracies(training.model, conversations).items()
                logger.info(
                    "%s: %s", name, ", ".join(f"{task} {score:.2f}" for task, score in scores)
                )
            training.save()
    training.save()


if __name__ == "__main__":
    typer.run(main)
