"""`segue serve`: a cluster with progress output and a clean stop."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console
from rich.markup import escape

from segue.api.errors import SegueError
from segue.launch.config import Config
from segue.launch.prepare import Report, prepare
from segue.security.config import SecurityConfig

if TYPE_CHECKING:
    from segue.launch.cluster import Cluster
    from segue.launch.scale.controller import Controller
    from segue.launch.watch import Watch

WITHOUT_GCS = (
    "Ray's gcs_server ended: running processes continue to serve, but those that die are not "
    "restarted; restart the cluster when convenient"
)
WITH_GCS = "Ray's gcs_server is back"
_LOOK_EVERY_S = 1.0


def serve_until_signal(
    config: Config, read_again: Callable[[], Config], progress: Console, out: Console
) -> NoReturn:
    """Blocks until SIGTERM or SIGINT, and then until the running turns have ended; a second SIGINT
    skips that wait. Progress goes to `progress`, and one line when ready to `out`. SIGHUP reloads
    the configuration, which `read_again` reads.

    Ends the process, with status 0, or with 1 after it has shown an error. A signal during the
    start stops what was started and ends the process with the shell's status for that signal: 143
    for SIGTERM, 130 for SIGINT. Raises the errors of `prepare`.
    """
    stop, is_ready, hurry = threading.Event(), threading.Event(), threading.Event()
    hang_up = threading.Event()
    received: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()
        received.append(number)
        # A second signal must not break the clean-up, which takes a limited time. Ray passes this
        # exception on unchanged; it would lose the status of a SystemExit.
        if len(received) == 1 and not is_ready.is_set():
            raise KeyboardInterrupt
        if len(received) > 1 and is_ready.is_set() and number == signal.SIGINT:
            hurry.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    signal.signal(signal.SIGHUP, lambda number, frame: hang_up.set())
    started_at = monotonic()

    def report(stage: str) -> None:
        seconds = f"[dim]{monotonic() - started_at:5.1f} s[/]"
        progress.print(f"{seconds} {escape(stage)}", soft_wrap=True)

    prepared = None
    try:
        prepared = prepare(config, report)
        # From here on Ray's native code runs. A fault in it prints the stacks of all threads.
        faulthandler.enable()
        # Ray takes a second to import; errors above should not wait for that.
        from segue.launch.cluster import finish_turns, running_prepared
        from segue.launch.scale.controlled import controller_of
        from segue.launch.watch import Watch

        with running_prepared(prepared, report, hurry) as running:
            controller = controller_of(running, config, read_again, report)
            watch = Watch(running.processes())
            _show_ready(running, config, monotonic() - started_at, report, out)
            is_ready.set()
            finish = partial(finish_turns, running, report, hurry)
            _watch(running, watch, controller, report, stop, hang_up, finish, progress)
    except KeyboardInterrupt:
        report("stopped before it was ready")
        _leave(128 + received[0])
    except SegueError as error:
        if prepared is None:
            raise
        _show_error(f"{type(error).__name__}: {error}", progress)
        _leave(1)
    report("stopped")
    _leave(0)


def _show_ready(
    running: Cluster, config: Config, took_s: float, report: Report, out: Console
) -> None:
    settings = config.cluster
    has_keys = config.router.has_keys
    chat = chat_words(running.address, config.security, has_keys=has_keys)
    words = http_words(running.http_addresses, config.security, has_keys=has_keys)
    for line in words:
        report(line)
    out.print(
        f"ready at {running.address} after {took_s:.1f} s: "
        f"{settings.model}, {settings.prefill} prefill and {settings.decode} decode "
        f"(try: {chat})",
        soft_wrap=True,
    )


def _show_error(what: str, progress: Console) -> None:
    progress.print(f"[bold red]error[/] {escape(what)}", soft_wrap=True)


def _leave(status: int) -> NoReturn:
    """Ends the process when all of its work has stopped, without the interpreter's own shutdown:
    Ray's native threads may still run, above all if its start was interrupted or hangs, and would
    use freed memory: a segmentation fault in place of the status."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def chat_words(address: str, security: SecurityConfig, *, has_keys: bool) -> str:
    """A first command to try. Values that only its user has are in capitals."""
    options = f"--target {address}"
    if security.has_tls:
        options += f" --tls-ca {security.ca}"
        if security.client_certificates:
            options += " --tls-cert FILE --tls-key FILE"
    return f"{'SEGUE_API_KEY=KEY ' * has_keys}segue chat {options} 'Hello'"


def http_words(
    addresses: Sequence[str], security: SecurityConfig | None = None, *, has_keys: bool = False
) -> Iterator[str]:
    """Examples of requests to the gateways at these addresses; none without a gateway."""
    if not addresses:
        return
    body = '{"messages": [{"role": "user", "content": "Hello"}]}'
    tls = security if security is not None and security.has_tls else None
    urls = [f"{'https' if tls else 'http'}://{address}" for address in addresses]
    url = urls[0]
    yield f"HTTP at {', '.join(urls)}, described at {url}/docs; for example:"
    options, client = "", ""
    if tls:
        shows = tls.http_client_certificates
        options = f"--cacert {tls.ca} {'--cert FILE --key FILE ' * shows}"
        cert = ', cert=("FILE", "FILE")' * shows
        client = f', http_client=openai.DefaultHttpxClient(verify="{tls.ca}"{cert})'
    options += '-H "Authorization: Bearer $SEGUE_API_KEY" ' * has_keys
    key = 'os.environ["SEGUE_API_KEY"]' if has_keys else '"none"'
    yield f"  curl {url}/v1/chat/completions {options}-d '{body}'"
    yield f'  openai.OpenAI(base_url="{url}/v1", api_key={key}{client})'


def _watch(
    running: Cluster,
    watch: Watch,
    controller: Controller,
    report: Report,
    stop: threading.Event,
    hang_up: threading.Event,
    finish: Callable[[], None],
    progress: Console,
) -> None:
    """Reports processes that die and come back, keeps the number of workers, and reloads the
    configuration after `hang_up`, until `stop` is set. Does not return if Ray itself ends and no
    turn can be served any more.
    """
    from segue.launch.ray.ending import GCS, RAYLET, ended_parts

    has_gcs = True
    while not stop.wait(_LOOK_EVERY_S):
        ended = ended_parts()
        if RAYLET in ended:
            _give_up(f"Ray's {' and '.join(sorted(ended))} ended", None, progress)
        if has_gcs is not (GCS not in ended):
            has_gcs = not has_gcs
            report(WITH_GCS if has_gcs else WITHOUT_GCS)
        if hang_up.is_set():
            hang_up.clear()
            try:
                controller.reload()
            except SegueError as error:
                report(f"the configuration was not reloaded: {error}")
        controller.look(may_act=has_gcs)
        watch.follow(running.processes())
        watch.look(report, is_restarted=has_gcs)
        if not has_gcs and (role := watch.role_lost()):
            _give_up(f"Ray's {GCS} ended, and no {role} is left", finish, progress)


def _give_up(what: str, finish_turns: Callable[[], None] | None, progress: Console) -> NoReturn:
    """Ends the process and the rest of Ray: a clean stop would wait a minute for Ray's answers, and
    a supervisor can restart everything.
    """
    from segue.launch.ray.ending import kill_ray

    _show_error(
        f"Unavailable: {what}, so nothing can be restarted; start the cluster again", progress
    )
    try:
        if finish_turns is not None:
            finish_turns()
    finally:
        kill_ray()
        _leave(1)
