"""Measured costs, next to the costs that are unavoidable. Run each as `python -m
benchmarks.NAME`.
"""
