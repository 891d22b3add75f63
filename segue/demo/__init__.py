"""The demo model: a small Qwen3.5 hybrid, trained here on text generated here, and its location."""

from pathlib import Path

SUGGESTIONS = (
    "My name is Anna and I live in Lisbon.",
    "Count from 1 to 60.",
    "Where do I live?",
    "Say brillig 3 times.",
)
"""What to try first, in this order; the tests know the answers."""

NEEDS_DEV = (
    "this needs transformers, which the development set-up installs: run `scripts/setup cpu,dev` "
    "(or `./check`) in the repository, then try again"
)


def checkpoint_dir() -> Path:
    """The folder of the committed checkpoint, in the layout of a hub snapshot."""
    return Path(__file__).parent / "checkpoint"
