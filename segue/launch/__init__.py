"""Starts a cluster: the one place that sees the router and both kinds of workers."""
