"""Qwen3.5 text models: what a checkpoint says, its weights, and the forward pass."""
