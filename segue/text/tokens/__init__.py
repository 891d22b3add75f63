"""The tokenizer, and text from tokens as they arrive."""
