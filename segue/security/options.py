"""The command-line option for the cluster's secret, for processes that are started by hand."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from segue.config import section
from segue.security.config import Security, SecurityConfig
from segue.security.secret import ENVIRONMENT


def add_secret_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cluster-secret-file",
        help=f"file with the secret of the cluster's processes; or set {ENVIRONMENT}",
    )


def security_of(sections: Mapping[str, Any], options: argparse.Namespace) -> Security:
    """From the file's section, the option and the environment. Raises InvalidConfig."""
    config = section(sections, "security", SecurityConfig)
    if options.cluster_secret_file:
        config = replace(config, cluster_secret_file=options.cluster_secret_file)
    return config.security(os.environ)
