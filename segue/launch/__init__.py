"""Starts a cluster: the only place that imports the router and both kinds of workers."""
