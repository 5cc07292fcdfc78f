"""What runs on a node, as `python -m bootstrap.node...`: standard library and psutil alone."""
