"""Loss and gradient as one graph, in which the frozen weights are constants, made into code."""
