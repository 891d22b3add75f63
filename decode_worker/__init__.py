"""Turns pages and states into tokens: continuous batching, one token per sequence and step."""
