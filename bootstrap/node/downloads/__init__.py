"""What the head fetches from outside, for every node."""
