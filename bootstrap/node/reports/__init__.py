"""What a node says of itself, as JSON."""
