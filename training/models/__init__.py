"""The frozen models, and the new word in them."""
