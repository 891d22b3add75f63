"""The models and their prompts."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from benchmarks.harness.checkpoint import save_random_checkpoint
from benchmarks.mtp.drive import Prompt
from benchmarks.peers.shape import checkpoint
from segue.demo import checkpoint_dir
from segue.demo.evaluate import held_out
from segue.model.checkpoint.generation import GenerationDefaults

PAGE_TOKENS = 16
SIMULATED_ACCEPTANCE = 0.8
_CONVERSATION_CHARS = 1000
_MAX_ANSWER_TOKENS = 80
# Otherwise hardly any step would have the full batch.
_MIN_ANSWER_TOKENS = 16
_RANDOM_PROMPT_TOKENS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model and its test settings."""

    name: str
    folder: Path
    prompts: tuple[Prompt, ...]
    """Each round continues where the previous one stopped."""
    min_prompts: int
    batch_sizes: tuple[int, ...]
    num_rounds: int
    simulate_acceptance: float = -1.0

    def prompts_of(self, round_number: int, batch_size: int) -> list[Prompt]:
        count = max(batch_size, self.min_prompts)
        first = round_number * count
        return [self.prompts[i % len(self.prompts)] for i in range(first, first + count)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A conversation up to one of its answers, and that answer with its end token."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]


def demo_texts(folder: Path, count: int) -> tuple[Text, ...]:
    """Conversations that the demo model has not seen. Each has one answer that is not short, drawn
    with its length as weight, so that positions are distributed as generated tokens are.
    """
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    draw, texts = random.Random(0), []
    for one in held_out(tokenizer, count, _CONVERSATION_CHARS):
        ids, answers = one.ids, one.answer
        long = [a for a in answers if a >= 0 and answers.count(a) >= _MIN_ANSWER_TOKENS]
        if not long:
            continue
        chosen = draw.choice(long)
        start = answers.index(chosen)
        texts.append(Text(prompt=ids[:start], answer=ids[start : start + answers.count(chosen)]))
    return tuple(texts)


def demo(*, is_quick: bool) -> Subject:
    """The demo model, greedy, asked for the answers in conversations that it has not seen."""
    folder = checkpoint_dir()
    eos_ids = GenerationDefaults.from_folder(folder).end_ids
    return Subject(
        name="demo",
        folder=folder,
        prompts=tuple(
            Prompt(token_ids=text.prompt, max_tokens=_MAX_ANSWER_TOKENS, eos_ids=eos_ids)
            for text in demo_texts(folder, 4 if is_quick else 80)
        ),
        min_prompts=2 if is_quick else 8,
        batch_sizes=(2,) if is_quick else (1, 4, 8),
        num_rounds=1 if is_quick else 8,
    )


def random_large(scratch: Path, *, is_quick: bool) -> Subject:
    """107 M random parameters and a random MTP layer, whose drafts are accepted at random."""
    folder = save_random_checkpoint(scratch / "random", is_quick=is_quick)
    add_mtp_layer(folder)
    return _accepted_at_random(
        "random",
        folder,
        num_tokens=8 if is_quick else 48,
        num_rounds=1 if is_quick else 3,
    )


def published_shape(models: Path) -> Subject:
    """752 M random bf16 weights and a random MTP layer, made in `models` on first use."""
    folder = models / "0.8b-mtp"
    if not folder.is_dir():
        models.mkdir(parents=True, exist_ok=True)
        unfinished = models / "0.8b-mtp.unfinished"
        shutil.copytree(checkpoint(models, is_quick=False), unfinished, dirs_exist_ok=True)
        add_mtp_layer(unfinished)
        unfinished.rename(folder)
    return _accepted_at_random("0.8b", folder, num_tokens=32, num_rounds=2)


def _accepted_at_random(name: str, folder: Path, *, num_tokens: int, num_rounds: int) -> Subject:
    draw = random.Random(0)
    vocab_size = json.loads((folder / "config.json").read_text())["vocab_size"]
    prompts = tuple(
        Prompt(
            token_ids=tuple(draw.randrange(vocab_size) for _ in range(_RANDOM_PROMPT_TOKENS)),
            max_tokens=num_tokens,
        )
        for _ in range(8)
    )
    return Subject(
        name=name,
        folder=folder,
        prompts=prompts,
        min_prompts=1,
        batch_sizes=(1,),
        num_rounds=num_rounds,
        simulate_acceptance=SIMULATED_ACCEPTANCE,
    )


def add_mtp_layer(folder: Path) -> None:
    """A draft layer built from a copy of the trunk's first attention layer, under
    published names.
    """
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "mtp_num_hidden_layers": 1}))
    tensors = load_file(folder / "model.safetensors")
    copied = f"model.layers.{config['layer_types'].index('full_attention')}."
    torch.manual_seed(1)
    hidden_size = config["hidden_size"]
    dtype = next(iter(tensors.values())).dtype
    mtp = {
        name.replace(copied, "mtp.layers.0."): tensor.clone()
        for name, tensor in tensors.items()
        if name.startswith(copied)
    }
    fc = torch.randn(hidden_size, 2 * hidden_size) * config["initializer_range"]
    mtp["mtp.fc.weight"] = fc.to(dtype)
    for name in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"):
        mtp[f"mtp.{name}.weight"] = torch.zeros(hidden_size, dtype=dtype)
    save_file({**tensors, **mtp}, folder / "model.safetensors", metadata={"format": "pt"})
