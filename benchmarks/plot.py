"""Draw what `benchmarks.scaling` and `benchmarks.bootstrap` measured into docs/.

.venv/bin/python -m benchmarks.plot
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "benchmarks" / "figures"
DOCS = ROOT / "docs"
SHOWN = {"no_network_ms": "no network", "rows_ms": "the word's rows", "table_ms": "whole table"}


def scaling(figures: dict[str, Any], target: Path) -> None:
    """Step time by link as measured, and by ranks on paper."""
    figure, (links, ranks) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    rates = list(figures["by_rate"])
    for number, (key, label) in enumerate(SHOWN.items()):
        heights = [figures["by_rate"][rate][key] for rate in rates]
        places = [place + 0.27 * (number - 1) for place in range(len(rates))]
        links.bar(places, heights, width=0.25, label=label)
    links.set(yscale="log", ylabel="ms a step", title="the miniature on two hosts, measured")
    links.set_xticks(range(len(rates)), rates)
    links.legend(fontsize=8)
    paper = figures["on_paper"]
    counts = [int(count) for count in paper["ranks"]]
    for key, label in (("rows_seconds", "the word's rows"), ("table_seconds", "whole table")):
        ranks.plot(counts, [paper["ranks"][str(n)][key] for n in counts], "o-", label=label)
    ranks.set(xscale="log", ylim=(0, None), xlabel="ranks", ylabel="s a step")
    ranks.set_xticks(counts, [str(count) for count in counts])
    ranks.set_title(f"Stable Diffusion 1.5 over {paper['rate']}, on paper")
    ranks.legend(fontsize=8)
    figure.savefig(target, metadata={"Date": None})
    plt.close(figure)


def bootstrap(figures: dict[str, Any], target: Path) -> None:
    """Seconds and bytes of a bootstrap by the number of hosts."""
    figure, (times, volumes) = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
    sizes = figures["sizes"]
    hosts = [str(size["hosts"]) for size in sizes]
    network = [size["network"] for size in sizes]
    times.bar(hosts, network, label="network")
    unpacking = [size["unpacking"] for size in sizes]
    times.bar(hosts, unpacking, bottom=network, label="unpacking (all hosts share this machine)")
    times.set(xlabel="hosts", ylabel="s")
    times.legend(fontsize=8)
    volumes.bar(hosts, [size["outside"] / 1e6 for size in sizes], color="C2")
    volumes.set(xlabel="hosts", ylabel="MB from outside")
    figure.savefig(target, metadata={"Date": None})
    plt.close(figure)


def main() -> int:
    """Draw those that were measured."""
    mpl.rcParams["svg.hashsalt"] = "benchmarks"
    for name, draw in (("scaling", scaling), ("bootstrap", bootstrap)):
        source = FIGURES / f"{name}.json"
        if source.exists():
            draw(json.loads(source.read_text()), DOCS / f"{name}.svg")
            print(f"wrote docs/{name}.svg")
        else:
            print(f"{source.relative_to(ROOT)} is missing: python -m benchmarks.{name} --output it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
