"""The nodes' Python environment: what it holds, and how it gets there without a network."""
