"""The run directory: its record, events, checkpoints, and how a run goes on."""
