"""Agents' sessions: a long first turn, many short ones, with and without what keeps them cheap."""
