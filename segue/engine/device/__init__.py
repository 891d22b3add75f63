"""Decode steps that run on the device without the host: captured as graphs, launched ahead."""
