"""Turns prompts into pages and states: chunk by chunk, shipping while it computes."""
