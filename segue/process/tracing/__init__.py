"""Traces: one for each turn, with spans of all processes that it passes through.

A process makes one span for its part of a turn, and when a stage of that has ended, a span for the
stage, from the times that the turn recorded. Nothing is traced unless `tracer_of` finds a
collector in the environment.
"""
