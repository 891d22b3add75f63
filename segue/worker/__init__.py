"""What both kinds of workers are made of: process, memory, engine thread."""
