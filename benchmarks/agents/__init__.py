"""Agents' command lines against a whole cluster: how much of each turn's prompt is reused."""
