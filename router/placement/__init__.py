"""Cost model of a placement: what is known about workers, what it predicts, how it is learned.

`router/placement/policy.py` decides with it. Nothing here does I/O or reads a clock.
"""
