"""What a model costs on named GPUs, from its configuration and the code's own layout."""
