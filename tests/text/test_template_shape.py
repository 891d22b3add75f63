"""Branch points are learned for any template, and found in prompts of any length."""

from __future__ import annotations

import pytest

from benchmarks.reuse.sweep import num_shared
from segue.api.types import ChatInput, Message, TextInput, TokenInput, ToolCall
from segue.text.prompt import PromptEncoder
from segue.text.tokens.tokenizer import Tokenizer
from tests.real_vocabulary import KINDS, encoder_of, published_template, template

CALL = ToolCall(name="look", arguments='{"city": "Paris"}', call_id="c1")
SYSTEM = Message(role="system", content="You look things up.")
ASKED = Message(role="user", content="When does it leave?")
CALLED = Message(role="assistant", reasoning="I look.", tool_calls=(CALL,))
GIVEN = Message(role="tool", content="At noon.", tool_call_id="c1")
SAID = Message(role="assistant", reasoning="So it is.", content="At noon.")
FIRST = (SYSTEM, ASKED)
IN_A_RUN = (SYSTEM, ASKED, CALLED, GIVEN, CALLED, GIVEN)


def check_partings(encoder: PromptEncoder, *, enable_thinking: bool) -> None:
    """Each next turn diverges at a named point, or at the prompt's end."""
    for messages in (FIRST, IN_A_RUN, (*FIRST, SAID, ASKED), (*FIRST, SAID, ASKED, CALLED, GIVEN)):
        chat = ChatInput(messages=messages, enable_thinking=enable_thinking)
        prompt = encoder.encode(chat)
        points = encoder.branch_points(prompt, chat)
        for more in ((SAID, ASKED), (CALLED, GIVEN)):
            later = ChatInput(messages=(*messages, *more), enable_thinking=enable_thinking)
            branches_at = num_shared(prompt, encoder.encode(later))
            assert branches_at in (*points, len(prompt)), (messages, more)
        assert len(points) <= 4


@pytest.mark.parametrize("enable_thinking", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_next_turn_diverges_at_a_named_point(
    kind: str, enable_thinking: bool, real_tokenizer: Tokenizer
) -> None:
    check_partings(encoder_of(real_tokenizer, template(kind)), enable_thinking=enable_thinking)


@pytest.mark.parametrize("enable_thinking", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_next_turn_diverges_at_a_named_point_with_published_templates(
    kind: str, enable_thinking: bool, real_tokenizer: Tokenizer
) -> None:
    encoder = encoder_of(real_tokenizer, published_template(kind))

    check_partings(encoder, enable_thinking=enable_thinking)


OTHER_FAMILY = """\
{%- for m in messages %}
    {%- if m.role == 'user' %}<|endoftext|>ask: {{ m.content }}
    {%- elif m.role == 'tool' %}<|im_end|>found: {{ m.content }}
    {%- elif m.role == 'assistant' %}<|im_start|>say:
        {%- if loop.last or loop.nextitem.role == 'tool' %} <think>{{ m.reasoning_content }}</think>
        {%- endif %}{{ m.content }}
        {%- for c in m.tool_calls or [] %} {{ c.function.name }}{% endfor %}
    {%- else %}{{ m.content }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>say: <think>{% endif %}"""


def test_a_template_of_another_family_is_learned_too(tokenizer: Tokenizer) -> None:
    check_partings(encoder_of(tokenizer, OTHER_FAMILY), enable_thinking=True)


def test_a_template_without_tools_or_a_generation_prompt_has_a_partial_shape(
    tokenizer: Tokenizer,
) -> None:
    refuses = "{%- if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    source = "{%- for m in messages %}" + refuses + "<|im_start|>{{ m.content }}{% endfor %}"
    encoder = encoder_of(tokenizer, source)
    chat = ChatInput(messages=(SYSTEM, ASKED, Message(role="assistant", content="x"), ASKED))

    prompt = encoder.encode(chat)

    second = [at for at, token in enumerate(prompt) if token == prompt[0]][1]
    assert encoder.branch_points(prompt, chat) == (second,)


def test_a_template_that_refuses_everything_has_no_shape(tokenizer: Tokenizer) -> None:
    encoder = encoder_of(tokenizer, "{{ raise_exception('no') }}")

    assert encoder.branch_points((1, 2, 3)) == ()


def test_without_a_template_messages_are_still_found(tokenizer: Tokenizer) -> None:
    encoder = PromptEncoder(tokenizer, None)
    start = tokenizer.token_id("<|im_start|>")
    assert start is not None

    assert encoder.branch_points((start, 5, 6, start, 7)) == (3,)
    assert encoder.branch_points((5, 6, 7)) == ()


def test_a_chat_that_was_rendered_elsewhere_has_the_same_branch_points(
    real_tokenizer: Tokenizer,
) -> None:
    encoder = encoder_of(real_tokenizer, template("3.5"))
    chat = ChatInput(messages=IN_A_RUN)
    prompt = encoder.encode(chat)

    points = encoder.branch_points(prompt, chat)

    assert len(points) >= 2
    assert encoder.branch_points(prompt, TokenInput(prompt)) == points
    assert encoder.branch_points(prompt, TextInput("")) == points


def test_each_combination_of_options_has_its_own_shape(real_tokenizer: Tokenizer) -> None:
    encoder = encoder_of(real_tokenizer, template("3.5"))
    rewritten = {}
    for enable_thinking in (True, False):
        chat = ChatInput(messages=FIRST, enable_thinking=enable_thinking)
        prompt = encoder.encode(chat)
        rewritten[enable_thinking] = len(prompt) - encoder.branch_points(prompt, chat)[-1]

    # `<think>\n`; and the three of the four tokens of empty reasoning that may change.
    assert rewritten == {True: 2, False: 3}


def test_a_branch_point_before_very_long_results_is_found(real_tokenizer: Tokenizer) -> None:
    encoder = encoder_of(real_tokenizer, template("3.5"))
    long = Message(role="tool", content=" noon" * 5000, tool_call_id="c1")
    chat = ChatInput(messages=(SYSTEM, ASKED, CALLED, long, CALLED, long))
    prompt = encoder.encode(chat)
    later = ChatInput(messages=(*chat.messages, SAID, ASKED))

    assert num_shared(prompt, encoder.encode(later)) in encoder.branch_points(prompt, chat)


def test_reasoning_that_a_template_is_asked_to_keep_is_not_expected_to_change(
    real_tokenizer: Tokenizer,
) -> None:
    encoder = encoder_of(real_tokenizer, template("3.6"))
    chat = ChatInput(messages=IN_A_RUN, enable_thinking=True)
    keeping = ChatInput(
        messages=IN_A_RUN, enable_thinking=True, chat_template_kwargs='{"preserve_thinking": true}'
    )
    prompt = encoder.encode(chat)

    assert encoder.encode(keeping) == prompt
    assert set(encoder.branch_points(prompt, keeping)) < set(encoder.branch_points(prompt, chat))


def test_a_continued_message_also_diverges_at_the_first_answer(
    real_tokenizer: Tokenizer,
) -> None:
    encoder = encoder_of(real_tokenizer, template("3.5"))
    partial = (*IN_A_RUN, Message(role="assistant", reasoning="So", content="At"))
    chat = ChatInput(messages=partial, continue_final_message=True)
    prompt = encoder.encode(chat)
    later = ChatInput(messages=(*IN_A_RUN, SAID, ASKED))

    assert num_shared(prompt, encoder.encode(later)) in encoder.branch_points(prompt, chat)
