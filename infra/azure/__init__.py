"""The talk with Azure beside Pulumi: checks before, power, the boot log."""
