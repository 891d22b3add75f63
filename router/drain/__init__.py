"""Drains: which session of a worker that leaves goes where, and its move there."""
