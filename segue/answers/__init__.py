"""What a model's answer means: reasoning, content and tool calls."""
