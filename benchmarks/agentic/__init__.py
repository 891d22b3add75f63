"""Agent sessions: a long first turn, then many short ones, with and without the features that keep
them cheap.
"""
