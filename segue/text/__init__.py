"""Text to tokens and back: tokenizer, chat template, detokenisation, stop strings. No torch."""
