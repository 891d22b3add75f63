"""Passes of whole models with random weights: prompts, decode steps, layers and a handoff."""
