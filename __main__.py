"""The Pulumi program: config -> cluster -> outputs. `make plan` shows what it would create."""

from __future__ import annotations

import pulumi

from infra.program.cluster import Cluster
from infra.program.stack import stack_config

for name, value in Cluster("cluster", stack_config()).outputs.items():
    pulumi.export(name, value)
