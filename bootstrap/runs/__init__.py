"""A run as the person's machine sees it: flags, inputs, placement, name, progress, results."""
