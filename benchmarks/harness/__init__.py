"""What several benchmarks share: clusters of processes, checkpoints, statistics, output."""
