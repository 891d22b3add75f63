"""The Helm chart as Helm renders it, and the parts of it that tests look at."""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.helm import NotAvailable, helm

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "segue"
RECIPES = ["", *sorted(path.name for path in (CHART / "values").glob("*.yaml"))]
"""Values files; empty: the chart's defaults."""

Document = dict[str, Any]


def run_helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Skips the test where Helm cannot be had."""
    try:
        program = helm()
    except NotAvailable as error:
        pytest.skip(f"no Helm: {error}")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def values_of(recipe: str) -> list[str | Path]:
    return ["--values", CHART / "values" / recipe] if recipe else []


@functools.cache
def template(recipe: str, *options: str) -> str:
    done = run_helm("template", "segue", CHART, *values_of(recipe), *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@functools.cache
def documents(recipe: str) -> list[Document]:
    return [document for document in yaml.load_all(template(recipe), yaml.CSafeLoader) if document]


def of_kind(recipe: str, kind: str) -> dict[str, Document]:
    """By name."""
    found = [document for document in documents(recipe) if document["kind"] == kind]
    return {document["metadata"]["name"]: document for document in found}


def pod_templates(recipe: str) -> Iterator[tuple[str, Document]]:
    """The pods of the cluster, by component."""
    templates = [
        deployment["spec"]["template"] for deployment in of_kind(recipe, "Deployment").values()
    ]
    (cluster,) = of_kind(recipe, "RayCluster").values()
    templates.append(cluster["spec"]["headGroupSpec"]["template"])
    templates += [group["template"] for group in cluster["spec"]["workerGroupSpecs"]]
    for pod in templates:
        yield pod["metadata"]["labels"]["app.kubernetes.io/component"], pod
