"""What the chart configures fits together: settings, pods, resources, ports, secrets, policies."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from ray.autoscaler._private.kuberay import autoscaling_config

from segue.api.types import Role
from segue.cli.main import app
from segue.config import read_text
from segue.launch.cluster import SPIN_COUNT
from segue.launch.config import Config
from segue.launch.ray.demand import (
    NodeRoom,
    demands_of,
    shortage,
    strategy_of,
    worker_demand,
)
from tests.deploy.chart import RECIPES, Document, of_kind, pod_templates, template

WORKERS = {"prefill", "decode", "shared"}


def config_map(recipe: str) -> dict[str, str]:
    data: dict[str, str] = of_kind(recipe, "ConfigMap")["segue-config"]["data"]
    return data


def config_of(recipe: str) -> Config:
    return Config.from_sections(read_text(config_map(recipe)["segue.toml"], "segue.toml"))


def groups(recipe: str) -> list[Document]:
    (cluster,) = of_kind(recipe, "RayCluster").values()
    found: list[Document] = cluster["spec"]["workerGroupSpecs"]
    return found


def parsed(command: str, arguments: list[str]) -> dict[str, Any]:
    """The options of a `segue` command, as it reads them. Fails for those that it does not have."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # a group by construction
    with commands[command].make_context(command, list(arguments)) as context:
        options: dict[str, Any] = context.params
    return options


def nodes_of(recipe: str) -> Iterator[NodeRoom]:
    """The nodes of the Ray cluster: launcher and workers, as `ray start` is told."""
    (resources,) = re.findall(r"--resources '(\{.*\})'", config_map(recipe)["launch.sh"])
    yield NodeRoom.of({**json.loads(resources), "CPU": 0.0}, {})
    for group in groups(recipe):
        params = group["rayStartParams"]
        # A shell reads this word.
        (word,) = shlex.split(params["resources"])
        amounts = {**json.loads(word), "GPU": float(params["num-gpus"])}
        # Without a number they are as many as Ray's autoscaler is asked for.
        wanted = getattr(config_of(recipe).cluster, group["groupName"], 0)
        for _ in range(group.get("replicas", wanted) * group.get("numOfHosts", 1)):
            yield NodeRoom.of(amounts, {})


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_pods_have_room_for_exactly_the_processes(recipe: str) -> None:
    config = config_of(recipe)
    demands, nodes = demands_of(config), list(nodes_of(recipe))
    free: dict[str, float] = {}
    for node in nodes:
        for name, amount in node.amounts.items():
            free[name] = free.get(name, 0.0) + amount

    assert shortage(demands, list(nodes_of(recipe)), free) == ""
    # Without one of the workers' pods there is none.
    assert shortage(demands, list(nodes_of(recipe))[:-1], free) != ""


def test_rays_autoscaler_reads_the_limits_of_autoscale_from_the_groups() -> None:
    """By its own reader of what KubeRay keeps."""
    (cluster,) = of_kind("2p2d.yaml", "RayCluster").values()
    kept = {**cluster, "metadata": {**cluster["metadata"], "namespace": "default"}}
    config = config_of("2p2d.yaml")
    limits = config.autoscale

    read = autoscaling_config._derive_autoscaling_config_from_ray_cr(kept)

    kinds = {role: read["available_node_types"][role] for role in ("prefill", "decode")}
    assert config.cluster.ray_autoscales
    assert limits.enabled
    assert {role: (k["min_workers"], k["max_workers"]) for role, k in kinds.items()} == {
        "prefill": (limits.min_prefill, limits.max_prefill),
        "decode": (limits.min_decode, limits.max_decode),
    }
    nodes = [NodeRoom.of(kinds[role]["resources"], {}) for role in kinds]
    assert nodes[0].take(worker_demand(config, Role.PREFILL, 0))
    assert nodes[1].take(worker_demand(config, Role.DECODE, 0))
    assert read["idle_timeout_minutes"] == 5.0


def test_only_a_head_with_an_autoscaler_may_call_kubernetes() -> None:
    for recipe in RECIPES:
        accounts = of_kind(recipe, "ServiceAccount")
        for component, pod in pod_templates(recipe):
            spec = pod["spec"]
            may = component == "head" and config_of(recipe).cluster.ray_autoscales
            assert spec["automountServiceAccountToken"] is may
            assert spec["serviceAccountName"] == ("segue-head" if may else "segue")
            assert spec["serviceAccountName"] in accounts


@pytest.mark.parametrize("recipe", RECIPES)
def test_workers_request_gpus_if_and_only_if_their_pods_have_some(recipe: str) -> None:
    on_gpu = config_of(recipe).engine.device == "cuda"

    for group in groups(recipe):
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert ("nvidia.com/gpu" in limits, group["rayStartParams"]["num-gpus"]) == (
            (True, str(limits["nvidia.com/gpu"])) if on_gpu else (False, "0")
        )


def test_a_worker_has_a_rank_for_each_gpu_of_its_pods() -> None:
    recipe = "worker-on-two-nodes.yaml"
    config = config_of(recipe)

    for group in groups(recipe):
        num_gpus = group.get("numOfHosts", 1) * int(group["rayStartParams"]["num-gpus"])
        assert num_gpus == config.engines[Role(group["groupName"])].tensor_parallel == 16
    demand = worker_demand(config, Role.DECODE, 0)
    nodes = list(nodes_of(recipe))
    assert strategy_of(demand, nodes) == "PACK"
    # A pod of the other role takes none of its ranks.
    assert sum(node.take(demand.of_rank()) for node in nodes for _ in range(16)) == 16


@pytest.mark.parametrize("recipe", RECIPES)
def test_probes_ask_the_ports_that_are_configured(recipe: str) -> None:
    config = config_of(recipe)
    cluster, router = config.cluster, config.router
    metrics = {"prefill": cluster.prefill_metrics_port, "decode": cluster.decode_metrics_port}
    metrics["shared"] = cluster.decode_metrics_port
    # Of a worker on several nodes only the first pod serves metrics: the others have Ray's raylet.
    metrics |= {g["groupName"]: 6380 for g in groups(recipe) if g.get("numOfHosts", 1) > 1}
    ready = {}
    for component, pod in pod_templates(recipe):
        (container,) = pod["spec"]["containers"]
        probe = container["readinessProbe"]
        (asked,) = (
            probe[kind]["port"] for kind in ("httpGet", "grpc", "tcpSocket") if kind in probe
        )
        ready[component] = asked
        assert {"startupProbe", "livenessProbe"} <= container.keys()

    assert ready.pop("launcher") in (router.port, router.metrics_port)
    assert ready.pop("gateway") == config.gateway.port
    assert ready.pop("head") == 6379
    assert ready == {component: metrics[component] for component in ready}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_pod_gets_longer_to_end_than_it_may_drain(recipe: str) -> None:
    config = config_of(recipe)
    for component, pod in pod_templates(recipe):
        grace_s = pod["spec"].get("terminationGracePeriodSeconds", 30)
        if component in WORKERS:
            (container,) = pod["spec"]["containers"]
            command = container["lifecycle"]["preStop"]["exec"]["command"]
            options = parsed("drain", command[2:])
            assert command[:2] == ["segue", "drain"]
            assert (options["host"], options["timeout"]) == ("$(POD_IP)", config.decode.drain_s)
            # The pod leaves anyway, so its drain must not be refused.
            assert options["may_interrupt"]
            # Ray needs a few seconds after it.
            assert grace_s >= options["timeout"] + 30
        elif component == "launcher":
            assert grace_s >= config.router.drain_s + config.decode.drain_s + 30
        elif component == "gateway":
            assert grace_s >= config.gateway.drain_s + 10


@pytest.mark.parametrize("recipe", RECIPES)
def test_clients_are_given_every_router(recipe: str) -> None:
    config = config_of(recipe)
    wanted = [f"segue-router:{config.router.port + i}" for i in range(config.cluster.routers)]
    service = of_kind(recipe, "Service")["segue-router"]["spec"]
    (gateway,) = (pod for component, pod in pod_templates(recipe) if component == "gateway")

    assert [port["port"] for port in service["ports"]] == [
        config.router.port + index for index in range(config.cluster.routers)
    ]
    assert gateway["spec"]["containers"][0]["args"][-1] == ",".join(wanted)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_launchers_command_is_one_that_segue_has(recipe: str) -> None:
    (line,) = re.findall(r"^exec segue serve (.*)$", config_map(recipe)["launch.sh"], re.MULTILINE)

    options = parsed("serve", shlex.split(line))

    assert str(options["config"]) == "/etc/segue/config/segue.toml"
    assert options["ray_address"] == "$RAY_HEAD"


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_file_that_a_process_reads_is_mounted_in_its_pod(recipe: str) -> None:
    text = config_map(recipe)["segue.toml"]
    read = set(re.findall(r'"(/etc/segue/[^"]+)"', text))
    of_all = {path for path in read if path.startswith("/etc/segue/tls/")}

    for component, pod in pod_templates(recipe):
        (container,) = pod["spec"]["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container.get("volumeMounts", ())}
        assert mounts.keys() <= {volume["name"] for volume in pod["spec"]["volumes"]}
        wanted = read if component == "launcher" else of_all if component != "head" else set()
        for path in wanted:
            assert any(path.startswith(f"{mount}/") for mount in mounts.values()), (component, path)


@pytest.mark.parametrize("recipe", RECIPES)
def test_only_the_clusters_own_pods_reach_mooncake_workers_and_ray(recipe: str) -> None:
    policies = of_kind(recipe, "NetworkPolicy")
    nodes = policies["segue-nodes"]["spec"]
    (expression,) = nodes["podSelector"]["matchExpressions"]
    ray = {component for component, _ in pod_templates(recipe)} - {"gateway"}
    own, *others = nodes["ingress"]

    assert ray <= set(expression["values"])
    assert own["from"] == [{"podSelector": nodes["podSelector"]}]
    # All others reach ports of metrics and of routers.
    config = config_of(recipe)
    metrics = {7421, 7431, *(config.router.metrics_port + i for i in range(config.cluster.routers))}
    for rule in others:
        assert rule["from"]
        assert {port["port"] for port in rule["ports"]} == metrics
    for rule in policies["segue-router"]["spec"]["ingress"]:
        assert rule["from"]
        assert {port["port"] for port in rule["ports"]} == {
            config.router.port + index for index in range(config.cluster.routers)
        }


def test_pods_run_without_privileges_and_with_locked_memory_only_for_rdma() -> None:
    for recipe in RECIPES:
        for component, pod in pod_templates(recipe):
            assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
            (container,) = pod["spec"]["containers"]
            capabilities = container["securityContext"]["capabilities"]
            is_rdma = config_of(recipe).transfer.protocol == "rdma" and component in WORKERS
            assert capabilities == {"drop": ["ALL"], **({"add": ["IPC_LOCK"]} if is_rdma else {})}


def test_a_secret_that_the_chart_makes_is_long_and_new_each_time() -> None:
    found = re.findall(r"auth_token: (\S{20,})", template("") + template("", "--set", "routers=2"))

    assert len(set(found)) == 2


def test_workers_wait_as_where_segue_serve_starts_ray() -> None:
    (group, _) = groups("")
    (container,) = group["template"]["spec"]["containers"]
    settings = {variable["name"]: variable.get("value") for variable in container["env"]}

    assert settings["GOMP_SPINCOUNT"] == SPIN_COUNT
    assert settings["RAY_worker_niceness"] == "0"


@pytest.mark.parametrize("recipe", RECIPES)
def test_all_processes_of_a_turn_export_traces_or_none_does(recipe: str) -> None:
    endpoints = {
        component: env.get("OTEL_EXPORTER_OTLP_ENDPOINT")
        for component, pod in pod_templates(recipe)
        for env in [variables(pod)]
    }
    is_on = recipe == "2p2d.yaml"

    assert endpoints.pop("head") is None
    assert set(endpoints.values()) == {
        "http://otel-collector.monitoring:4317" if is_on else None,
    }
    for component, pod in pod_templates(recipe):
        if is_on and component != "head":
            # Kubernetes replaces names that come before it.
            names = list(variables(pod))
            about = variables(pod)["OTEL_RESOURCE_ATTRIBUTES"]
            used = re.findall(r"\$\((\w+)\)", about)
            assert used
            assert all(names.index(one) < names.index("OTEL_RESOURCE_ATTRIBUTES") for one in used)


def variables(pod: Document) -> dict[str, str]:
    (container,) = pod["spec"]["containers"]
    return {one["name"]: one.get("value", "") for one in container.get("env", ())}
