"""How fast does each way to draw draw? A ladder of them, from PyTorch in fp32 up."""
