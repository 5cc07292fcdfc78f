"""The cluster as a component for programs in any language: `pulumi package add ./component`."""

from __future__ import annotations

import sys
from pathlib import Path

from pulumi.provider.experimental import component_provider_host

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from infra.program.cluster import Cluster

if __name__ == "__main__":
    component_provider_host(name="xeon-diffusion", components=[Cluster])
