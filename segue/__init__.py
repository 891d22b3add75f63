"""Segue: disaggregated prefill and decode for hybrid models, built around sessions.

This module exports what a client of a cluster needs. Errors are in `segue.api.errors`.
"""

from segue.api.errors import SegueError
from segue.api.turn import (
    FinishReason,
    PromptLogprobs,
    Timings,
    TokenDelta,
    TurnEnd,
    TurnEvent,
    Usage,
)
from segue.api.types import (
    ChatInput,
    Choice,
    Ebnf,
    JsonObject,
    JsonSchema,
    Message,
    Regex,
    SampledToken,
    SamplingParams,
    StopConditions,
    TextInput,
    TokenInput,
    TokenLogprob,
    ToolCall,
    ToolCalls,
)
from segue.sdk.client import DEFAULT_TARGET, Answer, Client
from segue.sdk.session import Session
from segue.security.tls import Tls

__all__ = [
    "DEFAULT_TARGET",
    "Answer",
    "ChatInput",
    "Choice",
    "Client",
    "Ebnf",
    "FinishReason",
    "JsonObject",
    "JsonSchema",
    "Message",
    "PromptLogprobs",
    "Regex",
    "SampledToken",
    "SamplingParams",
    "SegueError",
    "Session",
    "StopConditions",
    "TextInput",
    "Timings",
    "Tls",
    "TokenDelta",
    "TokenInput",
    "TokenLogprob",
    "ToolCall",
    "ToolCalls",
    "TurnEnd",
    "TurnEvent",
    "Usage",
]
