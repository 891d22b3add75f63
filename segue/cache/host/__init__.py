"""The host tier: prefixes copied to host memory and back."""
