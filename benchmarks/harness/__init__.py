"""Shared by the benchmarks: clusters of processes, checkpoints, statistics, ceilings, output."""
