"""Attention by a kernel of our own, where that is faster than PyTorch's."""
