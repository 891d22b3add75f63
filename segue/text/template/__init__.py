"""The checkpoint's chat template: its source, sandbox, control tokens and shape."""
