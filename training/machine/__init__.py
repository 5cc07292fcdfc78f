"""The machine that a rank computes on: its processor, threads, and software stack."""
