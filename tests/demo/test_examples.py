"""Which tokens of a conversation are answers, and which of these are copied values."""

import pytest
from tokenizers import Tokenizer

from segue.demo import checkpoint_dir
from segue.demo.corpus.conversations import DemoConversation, conversation
from segue.demo.corpus.examples import Example, encode
from segue.demo.corpus.exchanges import DemoTurn

TOKENIZER = Tokenizer.from_file(str(checkpoint_dir() / "tokenizer.json"))
TOLD = DemoConversation(
    (
        DemoTurn("user", "My code is 731."),
        DemoTurn("assistant", "Noted: your code is 731.", copied=("731",)),
        DemoTurn("user", "Hi!"),
        DemoTurn("assistant", "Hello!"),
    ),
    (),
)


def test_an_answer_includes_its_end() -> None:
    example = encode(TOKENIZER, TOLD)

    assert _text(example, 0) == "Noted: your code is 731.<|im_end|>"
    assert _text(example, 1) == "Hello!<|im_end|>"


def test_a_value_is_marked_as_copied_only_in_the_answer() -> None:
    example = encode(TOKENIZER, TOLD)

    copied = [i for i, is_copied in zip(example.ids, example.is_copied, strict=True) if is_copied]

    assert TOKENIZER.decode(copied) == "731"


@pytest.mark.parametrize("seed", range(20))
def test_every_answer_of_a_conversation_is_marked(seed: int) -> None:
    drawn = conversation(seed, 2000)

    example = encode(TOKENIZER, drawn)

    answers = [turn for turn in drawn.turns if turn.role == "assistant"]
    assert set(example.answer) == {-1, *range(len(answers))}
    for index, turn in enumerate(answers):
        if not turn.calls:
            assert _text(example, index) == f"{turn.text}<|im_end|>"


def _text(example: Example, answer: int) -> str:
    ids = [i for i, index in zip(example.ids, example.answer, strict=True) if index == answer]
    return TOKENIZER.decode(ids, skip_special_tokens=False)
