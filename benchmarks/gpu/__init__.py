"""Segue's kernels and steps on a GPU, compared with its ceilings. See README.md above."""
