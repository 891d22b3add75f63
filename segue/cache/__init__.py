"""What a sequence owns in memory: pages, slots, who holds them, and how many bytes they are."""
