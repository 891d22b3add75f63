"""Reports on a cluster: status, drains, placements, sizes, and the contents of caches."""
