"""Tensor and expert parallelism: each process's part of a model, and the sums over all parts."""
