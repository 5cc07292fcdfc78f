"""Which engine, precision, ranks and threads train fastest on this machine: tried, not guessed."""
