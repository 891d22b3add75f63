"""`segue serve`, if the server is installed here: `pip install segue` alone is the client."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from segue.api.api_key import ENVIRONMENT
from segue.api.errors import InvalidConfig
from segue.cli.options import err, out

MODULES = (
    *("torch", "numpy", "safetensors", "isal", "huggingface_hub", "tokenizers", "jinja2", "ray"),
    *("mooncake", "grpc_health", "grpc_reflection", "prometheus_client", "h11", "cachetools"),
    *("xgrammar", "tomli_w", "fastapi", "starlette", "uvicorn", "uvloop", "httptools"),
)
"""The server's imports from the extras `cpu` and `cuda`, without Triton, which only GPUs need."""


def serve(
    model: Annotated[str | None, typer.Argument(help="Folder or hub id; default: demo.")] = None,
    prefill: Annotated[int | None, typer.Option(help="Prefill workers.")] = None,
    decode: Annotated[int | None, typer.Option(help="Decode workers.")] = None,
    routers: Annotated[int | None, typer.Option(help="Routers, on consecutive ports.")] = None,
    host: Annotated[str | None, typer.Option(help="Address that the router listens on.")] = None,
    announce: Annotated[
        str | None, typer.Option(help="Address that others reach it by, if different.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port of the router; 0: any.")] = None,
    http_port: Annotated[
        int | None,
        typer.Option(help="Port of the HTTP gateway; 0: any; default: 8000, or any with --port 0."),
    ] = None,
    gateways: Annotated[
        int | None, typer.Option(help="Gateways, on consecutive HTTP ports.")
    ] = None,
    http: Annotated[
        bool | None, typer.Option("--http/--no-http", help="Whether there is a gateway.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file.")] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            envvar=ENVIRONMENT,
            help="Key that clients need; may repeat. `ps` shows it: rather set the variable.",
        ),
    ] = None,
    api_keys: Annotated[
        Path | None, typer.Option(help="TOML file of tenants with their keys and limits.")
    ] = None,
    queue_timeout: Annotated[
        float | None, typer.Option(help="Seconds that a turn waits for a place; default: 30.")
    ] = None,
    cluster_secret_file: Annotated[
        Path | None,
        typer.Option(help="File with the secret of the cluster's processes; default: random."),
    ] = None,
    ray_address: Annotated[str | None, typer.Option(help="An existing Ray cluster.")] = None,
    generation_config: Annotated[
        str | None,
        typer.Option(help="auto: sampling defaults from the folder's file; none: ignore it."),
    ] = None,
    tool_call_parser: Annotated[
        str | None, typer.Option(help="auto, qwen3_coder, hermes, or none: calls are text.")
    ] = None,
    reasoning_parser: Annotated[
        str | None, typer.Option(help="auto, qwen3, or none: reasoning stays in the content.")
    ] = None,
    skip_tokenizer: Annotated[
        bool | None, typer.Option("--skip-tokenizer", help="Serve token ids only.")
    ] = None,
    quantization: Annotated[
        str | None,
        typer.Option(help="int8 or int4: quantise weights when they are loaded, on a CPU."),
    ] = None,
    simulate_acceptance: Annotated[
        float | None,
        typer.Option(help="Accept drafts at random, 0 to 1. Answers are then NOT the model's."),
    ] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the effective configuration and exit.")
    ] = False,
) -> None:
    """Start a cluster and serve until SIGTERM or Ctrl-C; running turns are finished first."""
    require_server_part("segue serve")
    from segue.launch.config import configure
    from segue.launch.model import described

    read = functools.partial(
        configure,
        config,
        {
            "cluster": {
                "model": model,
                "prefill": prefill,
                "decode": decode,
                "routers": routers,
                "ray_address": ray_address,
                "http": http,
                "gateways": gateways,
            },
            "router": {
                "host": host,
                "announce": announce,
                "port": port,
                "tool_call_parser": tool_call_parser,
                "reasoning_parser": reasoning_parser,
                "api_keys_file": str(api_keys.resolve()) if api_keys else None,
                "queue_timeout_s": queue_timeout,
            },
            "decode": {"simulate_acceptance": simulate_acceptance},
            "checkpoint": {
                "generation_config": generation_config,
                "skip_tokenizer": skip_tokenizer,
            },
            "gateway": {"port": http_port},
            "engine": {"quantization": quantization},
            "security": {
                "cluster_secret_file": (
                    str(cluster_secret_file.resolve()) if cluster_secret_file else None
                ),
            },
        },
        api_keys=api_key or (),
    )
    settings = read()
    if settings.decode.simulates_acceptance:
        err.print(
            f"[bold yellow]warning[/] drafts are accepted at random "
            f"({settings.decode.simulate_acceptance:g}): answers are NOT the model's",
            soft_wrap=True,
        )
    if print_config:
        typer.echo(settings.to_toml(), nl=False)
        if words := described(settings):
            typer.echo(f"# {words}")
        return
    # Ray takes seconds to import; other commands should not pay for it.
    from segue.launch.serve import serve_until_signal

    serve_until_signal(settings, read, err, out)


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
