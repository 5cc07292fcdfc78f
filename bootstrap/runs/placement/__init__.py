"""Which ranks run where: how many per node, and on which cores."""
