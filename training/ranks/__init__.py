"""The ranks of a run: who is who, how they meet, what travels between them."""
