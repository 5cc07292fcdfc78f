"""The miniature's networks, and how each is trained."""
