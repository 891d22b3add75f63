"""The sessions' records and histories, and their prompts."""
