"""The cluster as a picture, drawn from its plan: `python -m infra.plan --svg docs/cluster.svg`."""

from __future__ import annotations

from html import escape
from typing import Any

from infra.rules import rules
from infra.rules.kinds import GROUP, NSG, SUBNET, VNET

WIDTH = 860
NODE_WIDTH, NODE_HEIGHT, GAP = 213, 96, 20
LEFT, TOP = 90, 256
MOST_NODES = 3
"""More are drawn as a number: the picture is about who reaches whom."""

STYLE = (
    "text{font:14px system-ui,sans-serif;fill:#1b2733}.s{font-size:12px;fill:#51606e}"
    ".b{fill:#fff;stroke:#8a99a8;stroke-width:1.5}.v{fill:#f3f7fb}.h{fill:#e3f1ff}"
    ".n{fill:#fff5e2}.a{stroke:#2463a8;stroke-width:2;fill:none;marker-end:url(#m)}"
    ".t{marker-start:url(#m)}.g{stroke-dasharray:6 4}"
)


def draw(plan: dict[str, Any]) -> str:
    """An SVG of a plan: the network, who has which address, and which connections are let in."""
    nodes = plan["outputs"]["nodes"]
    shown = nodes[:MOST_NODES]
    inside = len(shown) * NODE_WIDTH + (len(shown) - 1) * GAP
    (vnet,) = rules.of_type(plan, VNET)
    (subnet,) = rules.of_type(plan, SUBNET)
    (group,) = rules.of_type(plan, GROUP)
    (security,) = rules.of_type(plan, NSG)
    admitted = {rule["name"]: rule for rule in security["inputs"]["securityRules"]}
    space = ", ".join(vnet["inputs"]["addressSpace"]["addressPrefixes"])
    ssh = admitted["AllowSshToHead"]
    ssh_range = ", ".join(ssh.get("sourceAddressPrefixes") or [ssh["sourceAddressPrefix"]])
    own = ", ".join(subnet["inputs"]["addressPrefixes"])
    head = LEFT + NODE_WIDTH / 2
    nat = LEFT + inside - NODE_WIDTH / 2
    height = TOP + NODE_HEIGHT + 110
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{len(nodes)} nodes of {escape(nodes[0]['size'])} in a closed network</title>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="m" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"'
        ' markerHeight="7" orient="auto-start-reverse"><path d="M0 0L8 4L0 8z" fill="#2463a8"/>'
        "</marker></defs>",
        _box(30, 86, WIDTH - 60, height - 96, "b g"),
        _text(head + 20, 108, f"resource group {group['inputs']['resourceGroupName']}", "s"),
        _box(60, 206, WIDTH - 120, height - 236, "b v"),
        _text(head + 20, 232, f"virtual network {space}, subnet {own}", "s"),
        _box(head - 100, 10, 200, 52, "b"),
        _text(head - 88, 32, "you"),
        _text(head - 88, 51, f"from {ssh_range}", "s"),
        f'<path class="a" d="M{head} 62V{TOP}"/>',
        _text(head + 12, 156, "SSH, port 22", "s"),
        _box(nat - 100, 10, 200, 52, "b"),
        _text(nat - 88, 32, "internet"),
        _text(nat - 88, 51, "packages, models", "s"),
        _box(nat - 100, 116, 200, 52, "b n"),
        _text(nat - 88, 138, "NAT gateway"),
        _text(nat - 88, 157, "serves the subnet; outbound", "s"),
        f'<path class="a" d="M{nat} 206V168"/>',
        f'<path class="a" d="M{nat} 116V62"/>',
    ]
    for index, node in enumerate(shown):
        x = LEFT + index * (NODE_WIDTH + GAP)
        parts += [
            _box(x, TOP, NODE_WIDTH, NODE_HEIGHT, "b h" if index == 0 else "b"),
            _text(x + 12, TOP + 25, "head" if index == 0 else f"worker {index}"),
            _text(x + 12, TOP + 46, node["name"], "s"),
            _text(x + 12, TOP + 65, f"{node['private_ip']}, {node['vcpus']} vCPUs", "s"),
            _text(
                x + 12,
                TOP + 84,
                "public address, static" if node.get("public_ip") else "no public address",
                "s",
            ),
        ]
    line = TOP + NODE_HEIGHT + 25
    more = f"; {len(nodes) - len(shown)} more workers" if len(nodes) > len(shown) else ""
    parts += [
        f'<path class="a t" d="M{LEFT} {line}H{LEFT + inside}"/>',
        _text(LEFT, line + 22, f"nodes reach each other on every port (MPI){more}", "s"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _box(x: float, y: float, width: float, height: float, style: str) -> str:
    return (
        f'<rect class="{style}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8"/>'
    )


def _text(x: float, y: float, text: str, style: str = "") -> str:
    kind = f' class="{style}"' if style else ""
    return f'<text{kind} x="{x:g}" y="{y:g}">{escape(text)}</text>'
