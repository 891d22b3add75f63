"""Options that chat completions and responses share: effort."""

from __future__ import annotations

from segue.gateway.http.errors import BadField

EFFORTS = {
    "none": None,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "xhigh",
    "xhigh": "xhigh",
    "max": "xhigh",
}
"""`reasoning_effort` for Qwen3.8's template. Other templates ignore it."""


def effort_kwargs(effort: object, field: str) -> dict[str, object]:
    """The template's variables for an effort; none for None. Raises InvalidRequest."""
    if effort is None:
        return {}
    if not isinstance(effort, str) or effort not in EFFORTS:
        raise BadField.of(field, f"expected one of {', '.join(EFFORTS)}, got {effort!r:.80}")
    known = EFFORTS[effort]
    if known is None:
        return {"enable_thinking": False}
    return {"enable_thinking": True, "reasoning_effort": known}
