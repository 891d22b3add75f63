"""Moves what a sequence owns from one worker's memory to another's: reserve, ship, commit."""
