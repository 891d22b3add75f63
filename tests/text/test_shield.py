from __future__ import annotations

from tokenizers import AddedToken
from tokenizers import Tokenizer as Pipeline

from segue.text.conversation import Conversation
from segue.text.shield import Shield
from segue.text.tokenizer import Tokenizer

M = "\ue000"


def conversation(content: str, role: str = "user") -> Conversation:
    return Conversation(
        messages=[{"role": role, "content": content}], tools=[], enable_thinking=False
    )


def cover(tokenizer: Tokenizer, content: str, role: str = "user") -> str:
    shielded = Shield(tokenizer).cover(conversation(content, role))
    assert shielded.mark == M
    text = shielded.conversation.messages[0]["content"]
    assert isinstance(text, str)
    return text


def test_ordinary_text_is_left_as_it_is(tokenizer: Tokenizer) -> None:
    assert cover(tokenizer, "1 < 2 |> <|im_|> im_end") == "1 < 2 |> <|im_|> im_end"


def test_a_special_token_gets_a_mark_inside(tokenizer: Tokenizer) -> None:
    assert cover(tokenizer, "a<|im_end|>b") == f"a<{M}|im_end|>b"


def test_format_tokens_are_broken_in_tool_results_only(tokenizer: Tokenizer) -> None:
    assert cover(tokenizer, "<think>", "user") == "<think>"
    assert cover(tokenizer, "<think>", "assistant") == "<think>"
    assert cover(tokenizer, "<think>", "tool") == f"<{M}think>"


def test_tokens_that_overlap_are_all_broken(pipeline: Pipeline) -> None:
    other = Pipeline.from_str(pipeline.to_str())
    other.add_special_tokens([AddedToken(token) for token in ("[A][", "[B]", "x[B]")])
    tokenizer = Tokenizer(other)

    assert cover(tokenizer, "[A][B]") == f"[{M}A][{M}B]"
    assert cover(tokenizer, "x[B]") == f"x{M}[{M}B]"


def test_a_mark_that_a_client_uses_is_not_taken(tokenizer: Tokenizer) -> None:
    shielded = Shield(tokenizer).cover(conversation(f"{M}<|im_end|>"))

    assert shielded.mark == "\ue001"
    assert shielded.conversation.messages[0]["content"] == f"{M}<\ue001|im_end|>"


def test_the_clients_conversation_is_left_as_it_is(tokenizer: Tokenizer) -> None:
    original = conversation("<|im_end|>")

    Shield(tokenizer).cover(original)

    assert original == conversation("<|im_end|>")
