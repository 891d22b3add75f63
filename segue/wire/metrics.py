"""Opens the endpoint for metrics and probes as a process's security asks."""

from __future__ import annotations

import ssl

from prometheus_client import CollectorRegistry

from segue.process.metrics_endpoint import MetricsEndpoint
from segue.security.config import Security
from segue.security.https import https_context
from segue.wire.addresses import Hosts


def metrics_endpoint(
    registry: CollectorRegistry, hosts: Hosts, port: int, security: Security
) -> MetricsEndpoint:
    """With TLS and clients' certificates, `/metrics` needs one; the probes need none, since
    Kubernetes shows none. Raises InvalidConfig.
    """
    needs_certificate = security.tls is not None and security.client_certificates
    return MetricsEndpoint(
        registry,
        hosts.listen,
        port,
        announce=hosts.announce,
        tls=https_context(security, ssl.CERT_OPTIONAL if needs_certificate else ssl.CERT_NONE),
        needs_certificate=needs_certificate,
    )
