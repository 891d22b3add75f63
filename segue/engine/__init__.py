"""What prefill and decode workers both run: batches, the model runner, the sampler."""
