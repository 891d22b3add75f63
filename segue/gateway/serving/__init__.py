"""Serves HTTP in one process, or in several that share a port."""
