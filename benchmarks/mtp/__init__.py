"""The gain from drafting with an MTP layer: tokens per second, acceptance, and the limits."""
