"""Which tensors of a checkpoint make which weights of the model."""
