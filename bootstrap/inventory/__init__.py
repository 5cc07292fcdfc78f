"""Which machines: the stack's outputs, a file of the same shape, a nodefile, this machine."""
