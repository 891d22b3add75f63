"""Traces: one for each turn, with spans of all processes that it passes through.

A process creates one span for its part of a turn, and a span for each stage after it has ended,
from the times that the turn recorded. Nothing is traced unless `tracer_of` finds a collector in the
environment.
"""
