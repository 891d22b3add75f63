"""A tiny model behind the real vocabulary, with a context that agents' prompts fit into."""

from __future__ import annotations

import json
from pathlib import Path

from tests.real_vocabulary import save_real_checkpoint, template

_MAX_CONTEXT = 131_072


def save_agents_checkpoint(folder: Path, *, kind: str, cache: Path) -> Path:
    """With the chat template of `kind` (tests/real_templates.py). `cache`: see there."""
    save_real_checkpoint(folder, template(kind), cache=cache)
    config = folder / "config.json"
    changed = {**json.loads(config.read_text()), "max_position_embeddings": _MAX_CONTEXT}
    config.write_text(json.dumps(changed))
    return folder
