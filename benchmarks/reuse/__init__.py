"""How much of a conversation's last prompt the next one uses again, against what could be."""
