"""The chat template: Qwen's format, and a history that repeats what was generated."""

import pytest

from segue.demo import checkpoint_dir
from segue.demo.corpus.conversations import DemoConversation, conversation
from segue.demo.corpus.exchanges import TOOLS, DemoCall, DemoTurn
from segue.demo.tokenizer import render, template_file

WEATHER = TOOLS["get_weather"]
CALL = DemoTurn("assistant", "", (DemoCall("get_weather", {"city": "Paris"}),))
CALLED = (
    "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n"
    "</function>\n</tool_call>"
)


def test_a_plain_conversation() -> None:
    turns = (
        DemoTurn("system", "Be brief."),
        DemoTurn("user", "Hi!"),
        DemoTurn("assistant", "Hello!"),
    )

    text = render(DemoConversation(turns, ()))

    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nHi!<|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n"
    )


def test_the_generation_prompt_opens_an_answer() -> None:
    text = render(DemoConversation((DemoTurn("user", "Hi!"),), ()), add_generation_prompt=True)

    assert text == "<|im_start|>user\nHi!<|im_end|>\n<|im_start|>assistant\n"


def test_tools_are_declared_before_the_system_prompt() -> None:
    text = render(
        DemoConversation((DemoTurn("system", "Be brief."), DemoTurn("user", "Hi!")), (WEATHER,))
    )

    assert text.startswith(
        '<|im_start|>system\n# Tools\n\n<tools>\n{"type": "function", "function": {"name": '
        '"get_weather", '
    )
    assert '"required": ["city"]}}}\n</tools>\n\nBe brief.<|im_end|>\n<|im_start|>user\n' in text


def test_a_tool_call_and_its_result() -> None:
    turns = (DemoTurn("user", "Weather in Paris?"), CALL, DemoTurn("tool", '{"temperature": 21}'))

    text = render(DemoConversation(turns, ()), add_generation_prompt=True)

    assert text.endswith(
        f"<|im_start|>assistant\n{CALLED}<|im_end|>\n"
        '<|im_start|>user\n<tool_response>\n{"temperature": 21}\n</tool_response><|im_end|>\n'
        "<|im_start|>assistant\n"
    )


def test_results_of_one_answer_share_a_turn() -> None:
    both = DemoTurn("assistant", "", CALL.calls * 2)
    turns = (DemoTurn("user", "Weather?"), both, DemoTurn("tool", "1"), DemoTurn("tool", "2"))

    text = render(DemoConversation(turns, ()))

    assert f"<|im_start|>assistant\n{CALLED}\n{CALLED}<|im_end|>\n" in text
    assert text.endswith(
        "<|im_start|>user\n<tool_response>\n1\n</tool_response>"
        "\n<tool_response>\n2\n</tool_response><|im_end|>\n"
    )


def test_a_call_may_follow_a_sentence() -> None:
    turn = DemoTurn("assistant", "One moment.", CALL.calls)

    text = render(DemoConversation((DemoTurn("user", "Weather?"), turn), ()))

    assert text.endswith(f"<|im_start|>assistant\nOne moment.\n\n{CALLED}<|im_end|>\n")


@pytest.mark.parametrize("generated", ["Hello!", "  two  spaces ", "", "a\n\nb\n", "{{ x }} <b>"])
def test_a_plain_answer_in_the_history_is_as_it_was_generated(generated: str) -> None:
    question = (DemoTurn("user", "Hi!"),)
    prompt = render(DemoConversation(question, ()), add_generation_prompt=True)

    history = render(DemoConversation((*question, DemoTurn("assistant", generated)), ()))

    assert history == f"{prompt}{generated}<|im_end|>\n"


@pytest.mark.parametrize("seed", range(20))
def test_every_prefix_of_a_conversation_is_a_prefix_of_its_text(seed: int) -> None:
    drawn = conversation(seed, 2000)
    whole = render(drawn)

    for num_turns, turn in enumerate(drawn.turns):
        if turn.role == "assistant":
            part = DemoConversation(drawn.turns[:num_turns], drawn.tools)
            assert whole.startswith(render(part, add_generation_prompt=True))


def test_the_checkpoint_contains_this_template() -> None:
    carried = checkpoint_dir() / "chat_template.jinja"

    assert carried.read_text() == template_file().read_text()
