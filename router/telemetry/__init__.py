"""Monitoring besides the router's own metrics."""
