"""The other workers of the cluster, as a worker knows and calls them."""
