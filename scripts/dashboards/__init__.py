"""Grafana's dashboards, written from one source: `python -m scripts.dashboards`."""
