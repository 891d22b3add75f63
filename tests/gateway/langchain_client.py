"""What a user of LangChain does, in an environment of its own: `python langchain_client.py URL`.

Prints one JSON object. Imports nothing of this project.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"It rains in {city}."


def main(url: str) -> dict[str, Any]:
    model = ChatOpenAI(
        model="demo",
        base_url=f"{url}/v1",
        api_key="none",
        temperature=0,
        max_retries=0,
        stream_usage=True,
    )
    told = HumanMessage("My city is Lisbon.")
    answer = model.invoke([told])
    streamed = AIMessageChunk("")
    num_chunks = 0
    for chunk in model.stream([told, answer, HumanMessage("What is my city?")]):
        streamed += chunk
        num_chunks += 1
    bound = model.bind_tools([get_weather])
    asked = HumanMessage("What is the weather in Reykjavik?")
    called = bound.invoke([asked])
    assert isinstance(called, AIMessage)
    (call,) = called.tool_calls
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage)
    last = bound.invoke([asked, called, result])
    return {
        "answer": answer.content,
        "streamed": streamed.content,
        "num_chunks": num_chunks,
        "usage": streamed.usage_metadata,
        "finish_reason": called.response_metadata["finish_reason"],
        "call": {"name": call["name"], "args": call["args"]},
        "last": last.content,
        "last_calls": last.tool_calls,
        "last_usage": last.usage_metadata,
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))  # noqa: T201  # its output
