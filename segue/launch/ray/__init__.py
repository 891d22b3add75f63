"""Ray: its start, its actors, and the resources of each process."""
