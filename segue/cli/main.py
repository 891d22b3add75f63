"""The command line: `segue serve`, `segue chat`, `segue generate`, `segue status`,
`segue explain`, `segue drain`.
"""

from __future__ import annotations

import asyncio
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from segue.api.api_key import ENVIRONMENT, one_key
from segue.api.errors import InvalidRequest, SegueError
from segue.api.types import ChatInput, SamplingParams, StopConditions
from segue.cli import show, show_drain, show_explanation
from segue.cli.chat import Chat, error_line
from segue.cli.input import JsonSchemaFile, one_input, read_tools, schema_in, with_template_options
from segue.cli.server_part import require_server_part
from segue.cli.tls import TlsCa, TlsCert, TlsKey, tls_of
from segue.sdk.client import DEFAULT_TARGET, Client

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Segue: disaggregated prefill and decode for hybrid models, built around sessions.",
)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Target = Annotated[
    str, typer.Option(help="The router, as host:port; of several, a list with commas.")
]
ApiKey = Annotated[
    str | None, typer.Option(envvar=ENVIRONMENT, help="Needed if the router has API keys.")
]
Temperature = Annotated[float | None, typer.Option(help="0 is greedy; default: the checkpoint's.")]
MaxTokens = Annotated[
    int | None, typer.Option(help="Longest answer; default: the rest of the context.")
]
Seed = Annotated[int | None, typer.Option(help="Same seed, same turn: same tokens.")]
Thinking = Annotated[
    bool | None,
    typer.Option("--thinking/--no-thinking", help="Default: the chat template's own."),
]
TemplateKwargs = Annotated[
    str, typer.Option(help='Further template variables, {"preserve_thinking": true}.')
]
SessionName = Annotated[str | None, typer.Option("--session", help="Name of the session.")]


def main() -> None:
    """Runs the command; prints a SegueError as one line on stderr and exits with status 1."""
    try:
        app()
    except SegueError as error:
        err.print(error_line(error), soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _show_version(wanted: bool) -> None:
    if wanted:
        out.print(f"segue {_version()}")
        raise typer.Exit


def _version() -> str:
    try:
        return metadata.version("segue")
    except metadata.PackageNotFoundError:
        return "(not installed: running from source)"


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Options of the program itself; a command's own options come after its name."""


@app.command()
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

    settings = configure(
        config,
        cluster={
            "model": model,
            "prefill": prefill,
            "decode": decode,
            "routers": routers,
            "ray_address": ray_address,
            "http": http,
        },
        router={
            "host": host,
            "announce": announce,
            "port": port,
            "tool_call_parser": tool_call_parser,
            "reasoning_parser": reasoning_parser,
            "api_keys_file": str(api_keys.resolve()) if api_keys else None,
            "queue_timeout_s": queue_timeout,
        },
        api_keys=api_key or (),
        decode={"simulate_acceptance": simulate_acceptance},
        checkpoint={"generation_config": generation_config, "skip_tokenizer": skip_tokenizer},
        gateway={"port": http_port},
        security={
            "cluster_secret_file": (
                str(cluster_secret_file.resolve()) if cluster_secret_file else None
            ),
        },
    )
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

    serve_until_signal(settings, err, out)


@app.command()
def chat(
    prompt: Annotated[str | None, typer.Argument(help="One turn; without it, many.")] = None,
    target: Target = DEFAULT_TARGET,
    session: SessionName = None,
    system: Annotated[str, typer.Option(help="System message.")] = "",
    tools: Annotated[Path | None, typer.Option(help="JSON file: a list of tools.")] = None,
    thinking: Thinking = None,
    chat_template_kwargs: TemplateKwargs = "",
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
    api_key: ApiKey = None,
    tls_ca: TlsCa = "",
    tls_cert: TlsCert = "",
    tls_key: TlsKey = "",
    history: Annotated[bool, typer.Option(help="Keep typed lines for the arrow keys.")] = True,
) -> None:
    """Talk to the model, with the timings under each answer."""
    conversation = Chat(
        target=target,
        api_key=one_key(api_key),
        tls=tls_of(tls_ca, tls_cert, tls_key),
        session=session,
        system=system,
        tools=read_tools(tools) if tools else (),
        thinking=thinking,
        template_kwargs=chat_template_kwargs,
        sampling=SamplingParams(temperature=temperature, seed=seed),
        stop=StopConditions(max_tokens=max_tokens),
        out=out,
        err=err,
        keeps_history=history,
    )
    if prompt is None:
        conversation.run()
    else:
        conversation.run_turn(prompt)


@app.command()
def generate(
    prompt: Annotated[str | None, typer.Option(help="Plain text, no chat template.")] = None,
    messages: Annotated[
        Path | None, typer.Option(help="JSON file of chat messages; - reads stdin.")
    ] = None,
    input_ids: Annotated[str | None, typer.Option(help="Token ids: 1,2,3.")] = None,
    thinking: Thinking = None,
    chat_template_kwargs: TemplateKwargs = "",
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls_ca: TlsCa = "",
    tls_cert: TlsCert = "",
    tls_key: TlsKey = "",
    session: SessionName = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_k: Annotated[int | None, typer.Option(help="0 keeps every token.")] = None,
    top_p: Annotated[float | None, typer.Option()] = None,
    min_p: Annotated[float | None, typer.Option()] = None,
    repetition_penalty: Annotated[float | None, typer.Option()] = None,
    presence_penalty: Annotated[float | None, typer.Option()] = None,
    frequency_penalty: Annotated[float | None, typer.Option()] = None,
    logprobs: Annotated[
        int | None, typer.Option(help="Alternatives to report; needs --json.")
    ] = None,
    prompt_logprobs: Annotated[
        int | None, typer.Option(help="The same for the prompt's tokens; needs --json.")
    ] = None,
    seed: Seed = None,
    stop: Annotated[list[str] | None, typer.Option(help="Stop string; may repeat.")] = None,
    stop_id: Annotated[list[int] | None, typer.Option(help="Stop token; may repeat.")] = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos")] = False,
    json_schema: JsonSchemaFile = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds for the turn.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run one turn; prints the text, or everything about it with --json."""
    turn_input = one_input(prompt, messages, input_ids)
    if isinstance(turn_input, ChatInput):
        turn_input = with_template_options(turn_input, thinking, chat_template_kwargs)
    elif thinking is not None or chat_template_kwargs:
        raise InvalidRequest("--thinking and --chat-template-kwargs need --messages")
    for option, number in (("--logprobs", logprobs), ("--prompt-logprobs", prompt_logprobs)):
        if number is not None and not as_json:
            raise InvalidRequest(f"{option} needs --json: without it only the text is printed")
    sampling = SamplingParams(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        seed=seed,
    )
    stop_conditions = StopConditions(
        max_tokens=max_tokens,
        stop_strings=tuple(stop or ()),
        stop_token_ids=tuple(stop_id or ()),
        ignore_eos=ignore_eos,
    )

    tls = tls_of(tls_ca, tls_cert, tls_key)

    async def run() -> None:
        async with Client(target, api_key=one_key(api_key), tls=tls) as client:
            answer = await client.generate(
                turn_input,
                session_id=session or "",
                sampling=sampling,
                stop=stop_conditions,
                output=schema_in(json_schema),
                timeout_s=timeout,
            )
        typer.echo(show.answer_json(answer) if as_json else answer.text)

    asyncio.run(run())


@app.command()
def status(
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls_ca: TlsCa = "",
    tls_cert: TlsCert = "",
    tls_key: TlsKey = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show workers, health and memory. The exit status is 0 only if turns can be served."""

    tls = tls_of(tls_ca, tls_cert, tls_key)

    async def look() -> bool:
        async with Client(target, api_key=one_key(api_key), tls=tls) as client:
            cluster = await client.status()
        if as_json:
            typer.echo(show.status_json(cluster))
        else:
            out.print(show.status_table(cluster, out.width))
        return cluster.ready

    if not asyncio.run(look()):
        sys.exit(1)


@app.command()
def explain(
    session: Annotated[str, typer.Argument(help="Name of the session.")],
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls_ca: TlsCa = "",
    tls_cert: TlsCert = "",
    tls_key: TlsKey = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Explain why the session's last turn ran where it did, and what else was weighed."""

    tls = tls_of(tls_ca, tls_cert, tls_key)

    async def look() -> None:
        async with Client(target, api_key=one_key(api_key), tls=tls) as client:
            explanation = await client.explain(session)
        if as_json:
            typer.echo(show_explanation.explanation_json(explanation))
        else:
            out.print(show_explanation.explanation_tables(explanation, out.width))

    asyncio.run(look())


@app.command()
def drain(
    worker: Annotated[str, typer.Argument(help="Name of the worker, such as decode-0.")],
    target: Target = DEFAULT_TARGET,
    api_key: ApiKey = None,
    tls_ca: TlsCa = "",
    tls_cert: TlsCert = "",
    tls_key: TlsKey = "",
    move_sessions: Annotated[
        bool,
        typer.Option(
            "--move-sessions/--no-move-sessions",
            help="Whether other decode workers take its sessions over.",
        ),
    ] = True,
    timeout: Annotated[
        float | None,
        typer.Option(help="Seconds for turns to end and sessions to move; default: its drain_s."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Take a worker out of service without losing a turn; `segue serve` then starts it anew."""

    tls = tls_of(tls_ca, tls_cert, tls_key)

    async def take_out() -> None:
        async with Client(target, api_key=one_key(api_key), tls=tls) as client:
            report = await client.drain_worker(
                worker, move_sessions=move_sessions, timeout_s=timeout
            )
        typer.echo(show_drain.report_json(report) if as_json else show_drain.report_line(report))

    asyncio.run(take_out())
