"""What exists in Azure: the cluster as a Pulumi program, its plan, its price, its power."""
