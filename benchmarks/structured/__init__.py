"""What a grammar costs an answer, and the other answers of its batch."""
