"""The command line: `segue serve`, `segue chat`, `segue generate`, `segue status`,
`segue explain`, `segue drain`, `segue upgrade`, `segue scale`, `segue reload`, `segue top`.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from segue.api.errors import InvalidRequest, SegueError
from segue.api.types import ChatInput, SamplingParams, StopConditions
from segue.cli import show
from segue.cli.chat import Chat, error_line
from segue.cli.input import JsonSchemaFile, one_input, read_tools, schema_in, with_template_options
from segue.cli.live.scale import reload, scale
from segue.cli.live.top import top
from segue.cli.operate import drain, explain, status
from segue.cli.options import (
    AsJson,
    Connection,
    MaxTokens,
    Seed,
    SessionName,
    Temperature,
    TemplateKwargs,
    Thinking,
    connecting,
    err,
    out,
)
from segue.cli.serve import serve
from segue.cli.upgrade import upgrade

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Segue: disaggregated prefill and decode for hybrid models, built around sessions.",
)


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
    """Options of the program itself. A command's own options follow its name."""


app.command()(serve)


@app.command()
@connecting
def chat(
    prompt: Annotated[str | None, typer.Argument(help="One turn; without it, many.")] = None,
    *,
    to: Connection,
    session: SessionName = None,
    system: Annotated[str, typer.Option(help="System message.")] = "",
    tools: Annotated[Path | None, typer.Option(help="JSON file: a list of tools.")] = None,
    thinking: Thinking = None,
    chat_template_kwargs: TemplateKwargs = "",
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
    history: Annotated[bool, typer.Option(help="Keep typed lines for the arrow keys.")] = True,
) -> None:
    """Talk to the model, with the timings under each answer."""
    conversation = Chat(
        connection=to,
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
@connecting
async def generate(
    prompt: Annotated[str | None, typer.Option(help="Plain text, no chat template.")] = None,
    messages: Annotated[
        Path | None, typer.Option(help="JSON file of chat messages; - reads stdin.")
    ] = None,
    input_ids: Annotated[str | None, typer.Option(help="Token ids: 1,2,3.")] = None,
    thinking: Thinking = None,
    chat_template_kwargs: TemplateKwargs = "",
    *,
    to: Connection,
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
    as_json: AsJson = False,
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
    async with to.client() as client:
        answer = await client.generate(
            turn_input,
            session_id=session or "",
            sampling=sampling,
            stop=stop_conditions,
            output=schema_in(json_schema),
            timeout_s=timeout,
        )
    typer.echo(show.answer_json(answer) if as_json else answer.text)


for command in (status, explain, drain, upgrade, scale, reload, top):
    app.command()(command)
