"""Pictures drawn with a learned word."""
