"""Whether the server is installed here: `pip install segue` alone is the client."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from segue.api.errors import InvalidConfig

MODULES = (
    "torch",
    "numpy",
    "safetensors",
    "huggingface_hub",
    "tokenizers",
    "jinja2",
    "ray",
    "mooncake",
    "grpc_health",
    "grpc_reflection",
    "prometheus_client",
    "h11",
    "cachetools",
    "xgrammar",
    "tomli_w",
    "fastapi",
    "starlette",
    "uvicorn",
    "uvloop",
    "httptools",
)
"""What a server imports from the extras `cpu` and `cuda`. Triton is not listed: only GPUs need it.
"""


def is_installed(module: str) -> bool:
    """Looks for a top-level module without importing it."""
    return importlib.util.find_spec(module) is not None


def require_server_part(
    command: str, *, is_installed: Callable[[str], bool] = is_installed
) -> None:
    """Raises InvalidConfig, naming what is missing and how to install it."""
    missing = [module for module in MODULES if not is_installed(module)]
    if missing:
        raise InvalidConfig(
            f"`{command}` needs the server, but only the client is installed here (missing: "
            f"{', '.join(missing)}): pip install 'segue[cpu]', or 'segue[cuda]' for GPUs"
        )
