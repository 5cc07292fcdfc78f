"""What happens on the nodes, over SSH: setting them up, and running trainings on them.

Nothing here imports torch, training, pulumi or infra; modules that run on a node import the
standard library, pydantic and rich alone.
"""
