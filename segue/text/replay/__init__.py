"""Renders only the new messages of a conversation whose earlier text is known."""
