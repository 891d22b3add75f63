"""A rank's part of a model: its shape, and where its weights are in the checkpoint."""
