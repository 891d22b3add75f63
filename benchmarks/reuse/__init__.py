"""How much of a conversation's last prompt the next one reuses, compared with the bound."""
