"""Decode steps that run on the device without the host: captured, and launched ahead."""
