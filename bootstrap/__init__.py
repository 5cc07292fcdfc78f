"""What happens on the nodes, over SSH: setting them up, and running trainings on them.

Nothing here imports torch, training, pulumi or infra. What runs on a node is in `node/`, which
imports the standard library and psutil alone, and in `node/downloads/` what it fetches with.
"""
