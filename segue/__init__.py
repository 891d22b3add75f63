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
    Message,
    SampledToken,
    SamplingParams,
    StopConditions,
    TextInput,
    TokenInput,
    TokenLogprob,
    ToolCall,
)
from segue.sdk.client import DEFAULT_TARGET, Answer, Client
from segue.sdk.session import Session

__all__ = [
    "DEFAULT_TARGET",
    "Answer",
    "ChatInput",
    "Client",
    "FinishReason",
    "Message",
    "PromptLogprobs",
    "SampledToken",
    "SamplingParams",
    "SegueError",
    "Session",
    "StopConditions",
    "TextInput",
    "Timings",
    "TokenDelta",
    "TokenInput",
    "TokenLogprob",
    "ToolCall",
    "TurnEnd",
    "TurnEvent",
    "Usage",
]
