"""`fab tune`: what the nodes train fastest with."""
