"""The stack's configuration and what its values may be."""
