"""The demo model: a small Qwen3.5 hybrid trained here on text generated here, and where it lies."""

from pathlib import Path


def checkpoint_dir() -> Path:
    """The folder of the committed checkpoint, in the layout of a hub snapshot."""
    return Path(__file__).parent / "checkpoint"
