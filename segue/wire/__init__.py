"""The wire contracts in Python: conversions of the generated messages, statuses, channels."""
