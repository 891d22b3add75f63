"""The chat template: Qwen's format, and a history that repeats what was generated."""

import pytest

from segue.demo import checkpoint_dir
from segue.demo.corpus import Conversation, conversation
from segue.demo.exchanges import TOOLS, Call, Turn
from segue.demo.tokenizer import render, template_file

WEATHER = TOOLS["get_weather"]
CALL = Turn("assistant", "", (Call("get_weather", {"city": "Paris"}),))
CALLED = (
    "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n"
    "</function>\n</tool_call>"
)


def test_a_plain_conversation() -> None:
    turns = (Turn("system", "Be brief."), Turn("user", "Hi!"), Turn("assistant", "Hello!"))

    text = render(Conversation(turns, ()))

    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nHi!<|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n"
    )


def test_the_generation_prompt_opens_an_answer() -> None:
    text = render(Conversation((Turn("user", "Hi!"),), ()), add_generation_prompt=True)

    assert text == "<|im_start|>user\nHi!<|im_end|>\n<|im_start|>assistant\n"


def test_tools_are_declared_before_the_system_prompt() -> None:
    text = render(Conversation((Turn("system", "Be brief."), Turn("user", "Hi!")), (WEATHER,)))

    assert text.startswith(
        '<|im_start|>system\n# Tools\n\n<tools>\n{"type": "function", "function": {"name": '
        '"get_weather", '
    )
    assert '"required": ["city"]}}}\n</tools>\n\nBe brief.<|im_end|>\n<|im_start|>user\n' in text


def test_a_tool_call_and_its_result() -> None:
    turns = (Turn("user", "Weather in Paris?"), CALL, Turn("tool", '{"temperature": 21}'))

    text = render(Conversation(turns, ()), add_generation_prompt=True)

    assert text.endswith(
        f"<|im_start|>assistant\n{CALLED}<|im_end|>\n"
        '<|im_start|>user\n<tool_response>\n{"temperature": 21}\n</tool_response><|im_end|>\n'
        "<|im_start|>assistant\n"
    )


def test_results_of_one_answer_share_a_turn() -> None:
    both = Turn("assistant", "", CALL.calls * 2)
    turns = (Turn("user", "Weather?"), both, Turn("tool", "1"), Turn("tool", "2"))

    text = render(Conversation(turns, ()))

    assert f"<|im_start|>assistant\n{CALLED}\n{CALLED}<|im_end|>\n" in text
    assert text.endswith(
        "<|im_start|>user\n<tool_response>\n1\n</tool_response>"
        "\n<tool_response>\n2\n</tool_response><|im_end|>\n"
    )


def test_a_call_may_follow_a_sentence() -> None:
    turn = Turn("assistant", "One moment.", CALL.calls)

    text = render(Conversation((Turn("user", "Weather?"), turn), ()))

    assert text.endswith(f"<|im_start|>assistant\nOne moment.\n\n{CALLED}<|im_end|>\n")


@pytest.mark.parametrize("generated", ["Hello!", "  two  spaces ", "", "a\n\nb\n", "{{ x }} <b>"])
def test_a_plain_answer_comes_back_as_it_was_generated(generated: str) -> None:
    question = (Turn("user", "Hi!"),)
    prompt = render(Conversation(question, ()), add_generation_prompt=True)

    history = render(Conversation((*question, Turn("assistant", generated)), ()))

    assert history == f"{prompt}{generated}<|im_end|>\n"


@pytest.mark.parametrize("seed", range(20))
def test_every_prefix_of_a_conversation_is_a_prefix_of_its_text(seed: int) -> None:
    drawn = conversation(seed, 2000)
    whole = render(drawn)

    for num_turns, turn in enumerate(drawn.turns):
        if turn.role == "assistant":
            part = Conversation(drawn.turns[:num_turns], drawn.tools)
            assert whole.startswith(render(part, add_generation_prompt=True))


def test_the_checkpoint_carries_this_template() -> None:
    carried = checkpoint_dir() / "chat_template.jinja"

    assert carried.read_text() == template_file().read_text()
