"""Segue: disaggregated prefill and decode for hybrid models, built around sessions."""
