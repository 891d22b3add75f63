"""The chart renders for every recipe, and what it renders is valid for Kubernetes and KubeRay."""

from __future__ import annotations

import gzip
import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator as Validator

from tests.deploy.chart import (
    CHART,
    RECIPES,
    ROOT,
    documents,
    of_kind,
    pod_templates,
    run_helm,
    template,
    values_of,
)

GOLDEN = Path(__file__).parent / "golden-2p2d.yaml"
# It would repeat deploy/prometheus and deploy/grafana.
GOLDEN_OPTIONS = ("--set", "monitoring.rules=false,monitoring.dashboards=false")
RAY_CLUSTER_CRD = ROOT.parent / "shared" / "data" / "kuberay" / "ray.io_rayclusters.yaml.gz"
# Kubernetes' own schemas do not describe these.
CUSTOM = {"RayCluster", "PodMonitor", "PrometheusRule", "ScaledObject"}


@pytest.mark.parametrize("recipe", RECIPES)
def test_helms_own_checker_finds_no_problem(recipe: str) -> None:
    done = run_helm("lint", "--strict", CHART, *values_of(recipe))

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_object_is_valid_for_kubernetes(recipe: str) -> None:
    kinds = set()
    for document in documents(recipe):
        kinds.add(document["kind"])
        if document["kind"] not in CUSTOM:
            kubernetes_validate.validate(document, "1.34", strict=True)

    assert kinds >= {"RayCluster", "Deployment", "Service", "NetworkPolicy", "PodDisruptionBudget"}


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_pod_of_the_ray_cluster_is_a_valid_pod(recipe: str) -> None:
    for component, pod in pod_templates(recipe):
        named = {**pod["metadata"], "name": component}
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": named, "spec": pod["spec"]}
        kubernetes_validate.validate(whole, "1.34", strict=True)


def closed(schema: Any) -> Any:
    """The schema, which refuses fields that it does not name: KubeRay would drop them silently."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    parts = {name: closed(part) for name, part in schema.items()}
    is_open = schema.get("x-kubernetes-preserve-unknown-fields")
    if (
        isinstance(schema.get("properties"), dict)
        and schema.get("type") == "object"
        and not is_open
    ):
        parts.setdefault("additionalProperties", False)
    return parts


@pytest.fixture(scope="module")
def kuberay() -> Validator:
    if not RAY_CLUSTER_CRD.exists():
        pytest.skip(f"KubeRay's CRDs are not here ({RAY_CLUSTER_CRD})")
    crd = yaml.load(gzip.decompress(RAY_CLUSTER_CRD.read_bytes()), yaml.CSafeLoader)
    (version,) = (version for version in crd["spec"]["versions"] if version["name"] == "v1")
    schema = version["schema"]["openAPIV3Schema"]
    # `status` is the operator's.
    properties = {**schema["properties"], "spec": closed(schema["properties"]["spec"])}
    return Validator({**schema, "properties": properties})


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_ray_cluster_is_valid_for_kuberay(recipe: str, kuberay: Validator) -> None:
    (cluster,) = of_kind(recipe, "RayCluster").values()

    kuberay.validate(cluster)


def test_a_field_that_kuberay_does_not_know_is_found(
    kuberay: Validator,
) -> None:
    (cluster,) = of_kind("", "RayCluster").values()
    wrong = json.loads(json.dumps(cluster))
    wrong["spec"]["workerGroupSpecs"][0]["replica"] = 3

    with pytest.raises(jsonschema.ValidationError, match="replica"):
        kuberay.validate(wrong)


def test_one_rendering_is_as_it_was() -> None:
    """To accept a change: helm template segue deploy/helm/segue --values
    deploy/helm/segue/values/2p2d.yaml --set monitoring.rules=false,monitoring.dashboards=false >
    tests/deploy/golden-2p2d.yaml
    """
    assert template("2p2d.yaml", *GOLDEN_OPTIONS) == GOLDEN.read_text()


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("prefill.replicas=0", "/prefill/replicas"),
        ("prefill.gpus=17", "/prefill/gpus"),
        ("prefill.nodes=0", "/prefill/nodes"),
        ("gateway.autoscaling.type=always", "/gateway/autoscaling/type"),
        ("prefill.maxReplicas=0", "/prefill/maxReplicas"),
        ("autoscaling.enabled=maybe", "/autoscaling/enabled"),
        ("autoscaling.enabled=true,decode.replicas=5", "decode.replicas is 5"),
        ("autoscaling.enabled=true,decode.nodes=2", "decode.nodes is 2"),
        ("security.tls.secret=tls", "/security/tls/serverName"),
        ("traces.endpoint=collector:4317", "/traces/endpoint"),
        ("traces.protocol=udp", "/traces/protocol"),
        ("traces.env.HOME=x", "/traces/env"),
        ("nonsense=1", "nonsense"),
        ("config.engine=3", "/config/engine"),
    ],
)
def test_wrong_values_are_refused_by_name(setting: str, reason: str) -> None:
    done = run_helm("template", "segue", CHART, "--set", setting)

    assert done.returncode == 1
    assert reason in done.stderr


def test_the_chart_names_the_versions_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    assert chart["appVersion"] == project["version"]
    assert f"ray=={values['ray']['version']}" in project["optional-dependencies"]["server"]
    assert values["image"]["tag"] == f"{project['version']}-cpu"


def test_rules_and_dashboards_are_those_of_the_repository() -> None:
    (rules,) = of_kind("2p2d.yaml", "PrometheusRule").values()
    ours = sorted((ROOT / "deploy" / "prometheus").glob("*.rules.yml"))
    groups = [group for path in ours for group in yaml.safe_load(path.read_text())["groups"]]
    maps = of_kind("2p2d.yaml", "ConfigMap")
    shown = {
        file: json.loads(text)
        for name, document in maps.items()
        if "-dashboard-" in name
        for file, text in document["data"].items()
    }

    assert [group["rules"] for group in rules["spec"]["groups"]] == [g["rules"] for g in groups]
    names = [group["name"] for group in rules["spec"]["groups"]]
    assert len(set(names)) == len(names)
    folder = ROOT / "deploy" / "grafana" / "dashboards"
    assert shown == {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}
