"""What a GPU makes of Segue's kernels and steps, beside what it could. See README.md above."""
