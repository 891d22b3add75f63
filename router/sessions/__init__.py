"""What the router keeps of sessions, and the prompts it makes from it."""
