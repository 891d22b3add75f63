"""Segue's CPU path against vLLM-CPU, llama.cpp and transformers, on one checkpoint."""
