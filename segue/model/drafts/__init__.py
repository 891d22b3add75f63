"""Drafting with fewer tokens than the vocabulary has."""
