"""Rendered scenes and their captions, which the miniature learns from."""
