"""The optimizer step and the loop over steps."""
