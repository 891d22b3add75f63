"""Starts or joins Ray, and reports a failure in one line."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from segue.api.errors import Unavailable
from segue.launch.prepare import Report
from segue.launch.ray.demand import Demand, NodeRoom, shortage
from segue.launch.ray.ending import end_ray
from segue.launch.ray.surroundings import keep_token_private
from segue.process.native_stderr import captured_stderr, silence_native_stderr

logger = logging.getLogger(__name__)

_JOIN_TIMEOUT_S = 10.0
# On a busy machine Ray takes about 15 s to start; it gives up on its own parts after 30 s.
_START_TIMEOUT_S = 60.0
_SLOW_AFTER_S = 10.0
_LOOK_EVERY_S = 0.25
_INTERRUPTED_GRACE_S = 5.0
_OBJECT_STORE_BYTES = 100 << 20
_ENDED = "A worker died or was killed"
# Ray's processes, and ours in them, would exit a minute after the GCS. They can run without it.
_WITHOUT_GCS_S = 365 * 86_400


def logs_folder() -> Path:
    """This node's log folder, in Ray's session folder."""
    context = ray.get_runtime_context()
    return Path(str(context.get_temp_dir()), str(context.get_session_name()), "logs")


@contextlib.contextmanager
def running_ray(address: str, demands: Sequence[Demand], report: Report) -> Iterator[None]:
    """Runs Ray for these processes in the block. Raises InvalidConfig and Unavailable."""
    if ray.is_initialized():
        yield
        return
    with _started(address, demands, report):
        yield


@contextlib.contextmanager
def _started(address: str, demands: Sequence[Demand], report: Report) -> Iterator[None]:
    if address:
        report(f"joining Ray at {address}")
        options: dict[str, Any] = {"address": address}
    else:
        report("starting Ray")
        options = _local_options(has_cpus=any(demand.cpus for demand in demands))
    # The driver's own output goes to the user; workers' logs stay in Ray's session folder. Ray
    # itself would print messages on standard output, which scripts read.
    ray._private.worker.print_to_stdstream = lambda data, ignore_prefix: _pass_on(data, report)
    options |= {"log_to_driver": False, "logging_level": logging.ERROR}
    timeout_s = _JOIN_TIMEOUT_S if address else _START_TIMEOUT_S
    may_end = threading.Event()
    try:
        _init(options, timeout_s, report, may_end)
        yield
    finally:
        if ray.is_initialized():
            end_ray()
        may_end.set()


def _pass_on(data: Mapping[str, Any], report: Report) -> None:
    """Reports the first line of each message, except on ended processes, which `Watch` reports."""
    for message in data["lines"]:
        line = message.partition("\n")[0]
        if not line.startswith(_ENDED):
            report(f"Ray: {line}")


def _local_options(*, has_cpus: bool) -> dict[str, Any]:
    keep_token_private(os.environ, Path.home())
    # Ray's own switch for a cluster of one machine: its processes listen on loopback only. The
    # variable is for processes that Ray starts; here it has been read already.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray._private.ray_constants.ENABLE_RAY_CLUSTER = False
    # Ray would send usage statistics to the internet.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray starts its workers at niceness 15, but ours are the machine's main work.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Ray would start one Python process per core, and map a third of the memory, for tasks and
    # objects that we do not use: 8 of the 12 s of its start on two busy cores.
    num_cores = os.cpu_count() or 1
    system = {
        "gcs_rpc_server_reconnect_timeout_s": _WITHOUT_GCS_S,
        # Without CPUs of its own, it would start our processes one after the other.
        "worker_maximum_startup_concurrency": num_cores,
    }
    return {
        "address": "local",
        "include_dashboard": False,
        "num_cpus": num_cores if has_cpus else 0,
        "object_store_memory": _OBJECT_STORE_BYTES,
        "_system_config": system,
    }


@contextlib.contextmanager
def _without_spare_parts() -> Iterator[None]:
    """In the block, Ray starts without three Python processes that one machine does not need: an
    autoscaler, the sender of workers' output to the driver, and the dashboard's server, for which
    Ray's start waits even if there is no dashboard. They take 2 s of a core, and memory.
    """
    node = ray._private.node.Node
    parts = ("start_monitor", "start_log_monitor", "start_api_server")
    # Another version of Ray may name them differently, and starts them then.
    own = {name: getattr(node, name) for name in parts if hasattr(node, name)}
    for name in own:
        setattr(node, name, lambda node, **_: None)
    try:
        yield
    finally:
        for name, start in own.items():
            setattr(node, name, start)


def _init(
    options: dict[str, Any], timeout_s: float, report: Report, may_end: threading.Event
) -> None:
    """Runs `ray.init` in a thread: it can hang in native code, where no signal interrupts it, and
    it would replace the main thread's signal handlers.

    The thread lives until `may_end`: Ray's processes die with the thread that started them.
    """
    failures: list[BaseException] = []
    is_over = threading.Event()

    def run() -> None:
        try:
            with _without_spare_parts():
                ray.init(**options)
        except BaseException as error:
            failures.append(error)
        finally:
            is_over.set()
        may_end.wait()

    with captured_stderr() as native:
        threading.Thread(target=run, name="ray", daemon=True).start()
        try:
            _wait_for(is_over, timeout_s, report)
        except BaseException:
            # A signal. Started parts are shut down in order; otherwise Ray's agents would stay for
            # a minute.
            is_over.wait(_INTERRUPTED_GRACE_S)
            raise
        output = native()
    logger.debug("output of Ray's native part", extra={"text": output})
    if not is_over.is_set():
        # Its thread continues to try, and to print errors, until this process ends.
        silence_native_stderr()
        raise Unavailable(_did_not(options["address"], f"no answer for {timeout_s:g} s", output))
    if failures:
        reason = str(failures[0]) or repr(failures[0])
        raise Unavailable(_did_not(options["address"], reason, output)) from failures[0]


def _wait_for(is_over: threading.Event, timeout_s: float, report: Report) -> None:
    started_at = time.monotonic()
    is_slow = False
    keep_handlers = _signal_keeper()
    while not is_over.wait(0.05):
        keep_handlers()
        elapsed_s = time.monotonic() - started_at
        if elapsed_s > timeout_s:
            break
        if elapsed_s > _SLOW_AFTER_S and not is_slow and timeout_s > _JOIN_TIMEOUT_S:
            is_slow = True
            report(
                f"Ray is slow to start (load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores); "
                f"will give up at {timeout_s:g} s"
            )
    keep_handlers()


def _signal_keeper() -> Callable[[], None]:
    """Returns a function that restores the current handlers. Ray's native part installs one for
    SIGTERM that prints a stack and aborts the process.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def keep() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    return keep


def _did_not(address: str, reason: str, native: str) -> str:
    """One line from Ray's exception and the output of its native part."""
    what = "Ray did not start here" if address == "local" else f"cannot join Ray at {address}"
    if "InvalidAuthToken" in native or "oken authentication" in reason:
        return (
            f"{what}: the token is missing or wrong; set RAY_AUTH_MODE=token and the cluster's own "
            "token, as RAY_AUTH_TOKEN or in a file that RAY_AUTH_TOKEN_PATH names"
        )
    return f"{what}: {' '.join(reason.split())[:300]}"


def require_room(demands: Sequence[Demand], timeout_s: float, report: Report) -> None:
    """Raises Unavailable, naming what is missing, if Ray cannot place the processes: it would wait
    forever for nodes that can take them. Until the timeout more nodes may join.
    """
    started_at = time.monotonic()
    reported = ""
    while missing := shortage(demands, nodes_in_all(), ray.available_resources()):
        waited_s = time.monotonic() - started_at
        if waited_s > _SLOW_AFTER_S and missing != reported:
            report(f"waiting for nodes of the Ray cluster: {missing}")
            reported = missing
        if waited_s > timeout_s:
            raise Unavailable(
                f"Ray has no room for this cluster: {missing}; add nodes, or change --prefill, "
                "--decode or [cluster] gpus_per_…, cpus_per_worker, …_on, or wait longer for nodes "
                "that start ([cluster] room_timeout_s)"
            )
        time.sleep(_LOOK_EVERY_S)


def nodes_in_all() -> list[NodeRoom]:
    """The total resources of each node."""
    return [
        NodeRoom.of(node["Resources"], node.get("Labels") or {})
        for node in ray.nodes()
        if node["Alive"]
    ]
