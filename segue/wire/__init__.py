"""The wire contracts in Python: generated messages, their conversions, statuses, channels."""
