"""From a bare node to one that trains: steps, facts, the cluster's own SSH, model and pictures."""
