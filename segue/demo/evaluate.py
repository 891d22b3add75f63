"""How often the demo model answers word for word: `python -m segue.demo.evaluate [DIR]`.

An answer counts if the most likely token is right at each position, given the conversation before
it. Greedy generation would give the same result, but takes much longer. A second table shows how
many words and numbers that were not in the training data are copied without an error, a third how
many of the draft layer's tokens match the trunk's.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from segue.demo import NEEDS_DEV, checkpoint_dir

try:
    from transformers import Qwen3_5ForCausalLM
except ModuleNotFoundError:
    raise SystemExit(NEEDS_DEV) from None

from segue.demo.acceptance import MAX_DRAFTS, acceptance
from segue.demo.corpus.conversations import COPY_WEIGHTS, WEIGHTS, Weights, typed_conversation
from segue.demo.corpus.examples import Example, encode
from segue.demo.mtp import has_head, load_head, load_trunk

# Seeds of training count up from zero and never reach this.
_FIRST_HELD_OUT_SEED = 10**9
_COMMITTED = checkpoint_dir()
_LENGTHS = {"~100 tokens": 350, "~250 tokens": 900, "~500 tokens": 1800, "~1,000 tokens": 3600}
"""Lengths of conversations, with their minimum number of characters."""
_ALL = "all"


def held_out(
    tokenizer: Tokenizer,
    num_conversations: int,
    min_chars: int = 2000,
    *,
    weights: Weights = WEIGHTS,
    is_exam: bool = False,
) -> list[Example]:
    """Conversations outside the training data; 2,000 characters are about 550 tokens."""
    seeds = range(_FIRST_HELD_OUT_SEED, _FIRST_HELD_OUT_SEED + num_conversations)
    return [
        encode(tokenizer, typed_conversation(seed, min_chars, weights, is_exam=is_exam))
        for seed in seeds
    ]


@torch.inference_mode()
def greedy_tokens(model: Qwen3_5ForCausalLM, example: Example) -> list[int]:
    """For each token of the conversation, the token that greedy decoding would choose."""
    logits_TV = model(input_ids=torch.tensor([example.ids]), use_cache=False).logits[0]
    return [example.ids[0], *logits_TV.argmax(dim=-1).tolist()[:-1]]


def right_answers(model: Qwen3_5ForCausalLM, example: Example) -> list[bool]:
    """For each answer in the conversation, whether greedy decoding would give it exactly."""
    right = [True] * (max(example.answer) + 1)
    greedy = greedy_tokens(model, example)
    for ours, token, answer in zip(greedy, example.ids, example.answer, strict=True):
        if answer >= 0 and ours != token:
            right[answer] = False
    return right


def right_copies(
    model: Qwen3_5ForCausalLM, tokenizer: Tokenizer, example: Example
) -> list[tuple[str, bool]]:
    """For each copied value, its task, and whether it is right and ends correctly."""
    copies = []
    greedy = greedy_tokens(model, example)
    for first, is_copied in enumerate(example.is_copied):
        if not is_copied or example.is_copied[first - 1]:
            continue
        # Every answer has an end token, so a value never comes last.
        end = example.is_copied.index(False, first)
        follows = tokenizer.decode([greedy[end]], skip_special_tokens=False)
        is_right = greedy[first:end] == list(example.ids[first:end]) and not follows[:1].isalnum()
        copies.append((example.tasks[example.answer[first]], is_right))
    return copies


def copying(
    model: Qwen3_5ForCausalLM, tokenizer: Tokenizer, held: Sequence[Example]
) -> dict[str, float]:
    """The share of correctly copied values per task, and over all tasks."""
    copies = [copy for one in held for copy in right_copies(model, tokenizer, one)]
    return _shares([*copies, *((_ALL, is_right) for _, is_right in copies)])


def accuracies(model: Qwen3_5ForCausalLM, held: Sequence[Example]) -> dict[str, float]:
    """The share of right answers per task, tasks in alphabetical order."""
    return _shares(
        answer for one in held for answer in zip(one.tasks, right_answers(model, one), strict=True)
    )


def _shares(results: Iterable[tuple[str, bool]]) -> dict[str, float]:
    by_task: dict[str, list[bool]] = {}
    for task, is_right in results:
        by_task.setdefault(task, []).append(is_right)
    return {task: sum(of_task) / len(of_task) for task, of_task in sorted(by_task.items())}


def main(
    checkpoint: Annotated[Path, typer.Argument()] = _COMMITTED, num_conversations: int = 60
) -> None:
    """Prints the accuracy per task and conversation length, and the drafts' acceptance.

    For the acceptance, answers are generated, which takes longer: it uses a third of the
    conversations.
    """
    torch.set_num_threads(2)
    model = load_trunk(checkpoint)
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    Console().print(
        _table("task", lambda held: accuracies(model, held), tokenizer, num_conversations)
    )
    Console().print(
        _table(
            "unseen words and numbers",
            lambda held: copying(model, tokenizer, held),
            tokenizer,
            num_conversations,
            weights=COPY_WEIGHTS,
            is_exam=True,
        )
    )
    if has_head(checkpoint):
        Console().print(_acceptance_table(model, tokenizer, num_conversations // 3))


def _table(
    title: str,
    judge: Callable[[Sequence[Example]], dict[str, float]],
    tokenizer: Tokenizer,
    num_conversations: int,
    *,
    weights: Weights = WEIGHTS,
    is_exam: bool = False,
) -> Table:
    columns = [
        judge(held_out(tokenizer, num_conversations, chars, weights=weights, is_exam=is_exam))
        for chars in _LENGTHS.values()
    ]
    table = Table(title, *_LENGTHS)
    for task in sorted(set().union(*columns)):
        table.add_row(task, *(f"{column.get(task, float('nan')):.1%}" for column in columns))
    return table


def _acceptance_table(
    model: Qwen3_5ForCausalLM, tokenizer: Tokenizer, num_conversations: int
) -> Table:
    head = load_head(model)
    examples = held_out(tokenizer, num_conversations)
    drafts = [f"draft {place}" for place in range(1, MAX_DRAFTS + 1)]
    table = Table("temperature", *drafts, "tokens a pass")
    for temperature in (0.0, 0.7):
        accepted = acceptance(model, head, examples, temperature)
        rates = [f"{rate:.1%}" for rate in accepted.rates]
        table.add_row(str(temperature), *rates, f"{accepted.tokens_per_pass:.2f}")
    return table


if __name__ == "__main__":
    typer.run(main)
