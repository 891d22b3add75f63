"""Agents' conversations, drawn from a seed, in the JSON that clients send."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

Data = dict[str, Any]

TEXTS = (
    "Where is the station?",
    "  leading and trailing \n\n",
    "",
    " \n",
    "Grüße aus Zürich — où est la gare? Привет, как дела?",
    "日本語の文章です。你好,世界!한국어",
    "👩🏽‍🚀 says 👋 \u200d\u2028 e\u0301 a\u030a \ufb01 ½ ≠ ¾",
    "def f(x):\n\treturn x  # 3.14e-5\r\n",
    'a < b && c > d | "quoted" \\n {{ braces }} {% raw %}',
    "0012345678901234567890 v1.2.3 2026-11-29T00:00:00Z",
    "<b>bold</b> <| not |> <think < /think> <tool_call",
    "\ue000 private \U000f0000 and \x00\x07 control",
    "one\n\n\ntwo   three\t\tfour",
    "he'll won't I'M DON'T",
    "مرحبا بالعالم שלום עולם नमस्ते दुनिया",
    "x" * 300,
)
VALUES: tuple[Any, ...] = (
    *("Paris", "", "two\nlines", "  ", "02134", "true", "null", '{"a": 1}', "Ж<&>'\""),
    *(0, -3, 10**20, 1.5, 1e-7, True, False, None),
    *([], [1, "a", None, True], {}, {"k": {"é": [1.0, False]}}, ["x", ["y"]]),
)
SPOKEN = (
    "I wrote <tool_call> and </tool_call>, then </think> x",
    "<tool_response>\nr\n</tool_response><think>",
    "<|fim_prefix|>a<|fim_suffix|><|repo_name|>",
)
"""Control tokens that are not special: a model generates them."""
NAMES = ("city", "days", "Größe", "a b", "path/to", "x.y", "数")
SCHEMAS: tuple[Any, ...] = (
    None,
    {},
    {"type": "object", "properties": None},
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Wo? — «où»"},
            "days": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "how": {"enum": ["a", 1, None, True], "default": 1.50},
        },
        "required": ["city"],
        "additionalProperties": False,
    },
)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A request in JSON, and the equivalent input for `transformers`."""

    body: Data
    messages: list[Data]
    """Has arguments as objects, as the transformers documentation requires."""
    options: Data = field(default_factory=dict)


def draw(seed: int, *, inline_thoughts: bool) -> Drawn:
    """Draws one conversation. `inline_thoughts`: the template reads reasoning out of the
    content.
    """
    rng = random.Random(seed)
    messages: list[Data] = []
    if rng.random() < 0.5:
        messages.append({"role": "system", "content": _content(rng)})
    for _ in range(rng.randint(1, 4)):
        messages.append({"role": "user", "content": _content(rng)})
        messages += _answer(rng, inline_thoughts)
    end = rng.choice(("user", "user", "tool", "assistant", "continued", "stray"))
    messages += _ending(rng, end)
    tools = [_tool(rng) for _ in range(rng.choice((0, 0, 1, 3)))]
    kwargs, thinking = _kwargs(rng), rng.choice((None, True, False))
    body: Data = {"messages": messages, "tools": tools or rng.choice((None, []))}
    body |= {"enable_thinking": thinking, "chat_template_kwargs": rng.choice((kwargs, kwargs))}
    options: Data = {**kwargs, "tools": tools or None}
    if thinking is not None:
        options["enable_thinking"] = thinking
    continued = end == "continued"
    body["continue_final_message"] = options["continue_final_message"] = continued
    options["add_generation_prompt"] = not continued
    return Drawn(body=body, messages=[_parsed(m) for m in messages], options=options)


def _content(rng: random.Random) -> Any:
    texts = [rng.choice(TEXTS) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    if len(texts) == 1 and rng.random() < 0.7:
        return texts[0]
    return [{"type": "text", "text": text} for text in texts]


def _answer(rng: random.Random, inline_thoughts: bool) -> list[Data]:
    messages: list[Data] = []
    for _ in range(rng.choice((0, 0, 1, 2))):
        messages.append({**_assistant(rng, inline_thoughts), "tool_calls": _calls(rng)})
        messages += [_result(rng, call) for call in messages[-1]["tool_calls"]]
    return [*messages, _assistant(rng, inline_thoughts)]


def _assistant(rng: random.Random, inline_thoughts: bool) -> Data:
    message: Data = {"role": "assistant", "content": _content(rng)}
    kind = rng.choice(("none", "null", "empty", "thought", "inline", "no content"))
    if kind == "null":
        message["reasoning_content"] = None
    elif kind == "empty":
        message["reasoning_content"] = ""
    elif kind == "thought":
        message[rng.choice(("reasoning_content", "reasoning"))] = rng.choice((*TEXTS, *SPOKEN))
    elif kind == "inline" and inline_thoughts:
        start = rng.choice(("<think>\n", ""))
        message["content"] = f"{start}{rng.choice(TEXTS)}\n</think>\n\n{rng.choice(TEXTS)}"
    elif kind == "no content":
        message["content"] = rng.choice((None, ""))
    if rng.random() < 0.2 and isinstance(message.get("reasoning_content"), str):
        message["content"] = rng.choice(SPOKEN)
    return message


def _calls(rng: random.Random) -> list[Data]:
    return [_call(rng, number) for number in range(rng.choice((1, 1, 2, 3)))]


def _call(rng: random.Random, number: int) -> Data:
    names = rng.sample(NAMES, rng.randint(0, 3))
    arguments: Any = {name: rng.choice(VALUES) for name in names}
    if rng.random() < 0.7:
        arguments = json.dumps(arguments, ensure_ascii=rng.random() < 0.5)
    if not names:
        arguments = rng.choice(("", "null", "{}", {}, None))
    call: Data = {
        "function": {"name": rng.choice(("look", "Über.all", "f")), "arguments": arguments}
    }
    return {"id": f"c{number}", "type": "function", **call}


def _result(rng: random.Random, call: Data) -> Data:
    return {"role": "tool", "tool_call_id": call["id"], "content": _content(rng)}


def _ending(rng: random.Random, end: str) -> list[Data]:
    called = {"role": "assistant", "content": "", "tool_calls": _calls(rng)}
    match end:
        case "tool":
            return [called, *(_result(rng, call) for call in called["tool_calls"])]
        case "assistant" | "continued":
            text = rng.choice(("The answer is", "I think  ", "日本"))
            return [
                {"role": "user", "content": _content(rng)},
                {
                    "role": "assistant",
                    "content": rng.choice((text, [{"type": "text", "text": text}])),
                },
            ]
        case "stray":
            return [{"role": "tool", "content": _content(rng)}]
        case _:
            return [{"role": "user", "content": _content(rng)}]


def _tool(rng: random.Random) -> Data:
    function: Data = {"name": rng.choice(NAMES), "description": rng.choice((*TEXTS[:6], None))}
    if rng.random() < 0.8:
        function["parameters"] = rng.choice(SCHEMAS)
    return {"type": "function", "function": function}


def _kwargs(rng: random.Random) -> Data:
    choices: Data = {
        "preserve_thinking": (True, False),
        "reasoning_effort": ("low", "medium", "xhigh"),
        "add_vision_id": (True, False),
        "unknown_keyword": ([1, {"a": None}],),
    }
    return {name: rng.choice(values) for name, values in choices.items() if rng.random() < 0.4}


def _parsed(message: Data) -> Data:
    if not message.get("tool_calls"):
        return message
    return {**message, "tool_calls": [_parsed_call(call) for call in message["tool_calls"]]}


def _parsed_call(call: Data) -> Data:
    function = dict(call["function"])
    if isinstance(function["arguments"], str) and function["arguments"]:
        function["arguments"] = json.loads(function["arguments"])
    function["arguments"] = function["arguments"] or {}
    return {**call, "function": function}
