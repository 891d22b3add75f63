"""What a placement costs: what is known of workers, what it predicts, and how that is learned.

`router/policy.py` decides with it. Nothing here does I/O or looks at a clock.
"""
