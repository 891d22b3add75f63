"""Turns pages and states into tokens: continuous batching, one or more per sequence and step."""
