"""What both workers run: batches, the model runner, the sampler."""
