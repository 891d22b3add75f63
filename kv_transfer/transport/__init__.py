"""One-sided writes between workers' memory, by Mooncake or in one process."""
