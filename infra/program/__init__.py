"""The Pulumi program: the components of a cluster."""
