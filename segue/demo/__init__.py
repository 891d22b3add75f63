"""The demo model: a small Qwen3.5 hybrid, and its training on generated text."""

from pathlib import Path

SUGGESTIONS = (
    "My name is Anna and I live in Lisbon.",
    "Count from 1 to 60.",
    "Where do I live?",
    "Say brillig 3 times.",
)
"""First messages to try, in this order. The tests check the answers."""

NEEDS_DEV = (
    "this needs transformers, which the development set-up installs: run `scripts/setup cpu,dev` "
    "(or `./check`) in the repository, then try again"
)


def checkpoint_dir() -> Path:
    """The folder of the committed checkpoint, in the layout of a hub snapshot."""
    return Path(__file__).parent / "checkpoint"
