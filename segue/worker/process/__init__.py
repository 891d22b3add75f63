"""The process of a worker: its command line, and how it serves, joins and leaves."""
