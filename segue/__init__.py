"""Segue: disaggregated prefill and decode for hybrid models, built around sessions."""

from segue.client import Client, Session

__all__ = ["Client", "Session"]
