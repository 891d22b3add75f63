"""How the memory of caches and weights is allocated."""
