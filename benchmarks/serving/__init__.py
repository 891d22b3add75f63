"""The same prompts through a real cluster and through transformers in one process."""
