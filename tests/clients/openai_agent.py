"""A small agent on OpenAI's own SDK, in a process of its own: `python openai_agent.py URL`.

It asks, runs the tools that the model calls, and ends when the model calls none. Prints one JSON
object. Imports nothing of this project.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from openai import OpenAI

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
_MAX_TURNS = 4


def get_weather(city: str) -> str:
    return json.dumps({"temperature": 7, "sky": "cloudy", "city": city})


def main(url: str) -> dict[str, Any]:
    client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    (model,) = client.models.list()
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Reykjavik?"}]
    turns = []
    for _ in range(_MAX_TURNS):
        with client.chat.completions.stream(
            model=model.id,
            messages=messages,
            tools=[WEATHER],
            temperature=0,
            stream_options={"include_usage": True},
        ) as stream:
            for _event in stream:
                pass
            completion = stream.get_final_completion()
        assert completion.usage is not None
        turns.append(completion.usage.to_dict())
        message = completion.choices[0].message
        messages.append(message.to_dict())
        if not message.tool_calls:
            break
        for call in message.tool_calls:
            result = get_weather(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    return {"messages": messages, "usage": turns}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))  # noqa: T201  # its output
