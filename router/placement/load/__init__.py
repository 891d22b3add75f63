"""How loaded workers are, as placements and an operator see it."""
