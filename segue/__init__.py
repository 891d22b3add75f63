"""Segue: disaggregated prefill and decode for hybrid models, built around sessions.

This module exports what a client of a cluster needs. Errors are in `segue.errors`.
"""

from segue.client import DEFAULT_TARGET, Answer, Client
from segue.errors import SegueError
from segue.session import Session
from segue.turn import FinishReason, Timings, TokenDelta, TurnEnd, TurnEvent, Usage
from segue.types import (
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

__all__ = [
    "DEFAULT_TARGET",
    "Answer",
    "ChatInput",
    "Client",
    "FinishReason",
    "Message",
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
