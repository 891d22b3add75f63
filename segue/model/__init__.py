"""Qwen3.5 text models: checkpoint metadata, weights and the forward pass."""
