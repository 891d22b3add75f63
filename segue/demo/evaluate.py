"""How often the demo model answers word for word: `python -m segue.demo.evaluate [DIR]`.

An answer counts when the most likely token is the right one at each of its places, given the
conversation before it. That is what greedy generation would say, at a fraction of the time. A
second table says how many of the draft layer's tokens are the trunk's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer
from transformers import Qwen3_5ForCausalLM

from segue.demo import checkpoint_dir
from segue.demo.acceptance import MAX_DRAFTS, acceptance
from segue.demo.corpus import typed_conversation
from segue.demo.examples import Example, encode
from segue.demo.mtp import has_head, load_head, load_trunk

# Training counts its seeds up from zero and never gets here.
_FIRST_HELD_OUT_SEED = 10**9
_COMMITTED = checkpoint_dir()


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A conversation the model has not seen, with the task of each of its answers."""

    example: Example
    tasks: tuple[str, ...]


def held_out(tokenizer: Tokenizer, num_conversations: int, min_chars: int = 2000) -> list[HeldOut]:
    """Conversations to judge by; 2,000 characters are some 480 tokens."""
    drawn = [
        typed_conversation(_FIRST_HELD_OUT_SEED + index, min_chars)
        for index in range(num_conversations)
    ]
    return [
        HeldOut(encode(tokenizer, c), tuple(t.task for t in c.turns if t.role == "assistant"))
        for c in drawn
    ]


@torch.inference_mode()
def right_answers(model: Qwen3_5ForCausalLM, example: Example) -> list[bool]:
    """For each answer of the conversation, whether greedy decoding would give it exactly."""
    logits_TV = model(input_ids=torch.tensor([example.ids]), use_cache=False).logits[0]
    chosen = logits_TV.argmax(dim=-1).tolist()
    right = [True] * (max(example.answer) + 1)
    for position, (token, answer) in enumerate(zip(example.ids, example.answer, strict=True)):
        if answer >= 0 and chosen[position - 1] != token:
            right[answer] = False
    return right


def accuracies(model: Qwen3_5ForCausalLM, held: Sequence[HeldOut]) -> dict[str, float]:
    """The share of right answers per task, tasks in alphabetical order."""
    marks: dict[str, list[bool]] = {}
    for one in held:
        for task, is_right in zip(one.tasks, right_answers(model, one.example), strict=True):
            marks.setdefault(task, []).append(is_right)
    return {task: sum(marks[task]) / len(marks[task]) for task in sorted(marks)}


def main(
    checkpoint: Annotated[Path, typer.Argument()] = _COMMITTED, num_conversations: int = 60
) -> None:
    """Prints the accuracy per task, at three lengths of conversation, and the drafts' acceptance.

    Answers with drafts are generated, which takes longer: of a third of the conversations.
    """
    torch.set_num_threads(2)
    model = load_trunk(checkpoint)
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    Console().print(_accuracy_table(model, tokenizer, num_conversations))
    if has_head(checkpoint):
        Console().print(_acceptance_table(model, tokenizer, num_conversations // 3))


def _accuracy_table(
    model: Qwen3_5ForCausalLM, tokenizer: Tokenizer, num_conversations: int
) -> Table:
    lengths = {"~250 tokens": 1000, "~500 tokens": 2000, "~1,000 tokens": 4000}
    columns = [
        accuracies(model, held_out(tokenizer, num_conversations, chars))
        for chars in lengths.values()
    ]
    table = Table("task", *lengths)
    for task in columns[0]:
        table.add_row(task, *(f"{column.get(task, float('nan')):.1%}" for column in columns))
    return table


def _acceptance_table(
    model: Qwen3_5ForCausalLM, tokenizer: Tokenizer, num_conversations: int
) -> Table:
    head = load_head(model)
    examples = [one.example for one in held_out(tokenizer, num_conversations)]
    drafts = [f"draft {place}" for place in range(1, MAX_DRAFTS + 1)]
    table = Table("temperature", *drafts, "tokens a pass")
    for temperature in (0.0, 0.7):
        accepted = acceptance(model, head, examples, temperature)
        rates = [f"{rate:.1%}" for rate in accepted.rates]
        table.add_row(str(temperature), *rates, f"{accepted.tokens_per_pass:.2f}")
    return table


if __name__ == "__main__":
    typer.run(main)
