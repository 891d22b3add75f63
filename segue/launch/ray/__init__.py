"""What Ray needs: its start, actors, and resources for each process."""
