"""Put what was measured into docs/: plots and tables of scaling, bootstrap, ladder and step.

.venv/bin/python -m benchmarks.plot
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

from benchmarks.inference_ladder.chart import ladder_plot, ladder_table
from benchmarks.train_step.chart import breakdown_plot, breakdown_table, quality_table, step_table

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "benchmarks" / "figures"
DOCS = ROOT / "docs"
PAGE = DOCS / "scaling.md"
LADDER, LADDER_PAGE = "inference-ladder", DOCS / "openvino.md"
STEP_PAGE = DOCS / "performance.md"
SHOWN = {"rows_ms": "the word's embedding vectors", "table_ms": "the whole embedding table"}
COLORS = {"rows_ms": "C0", "table_ms": "C1"}

Figures = dict[str, Any]


def scaling_plot(figures: Figures, target: Path) -> None:
    """Step time by link as measured, and by ranks on paper; what is compared is labelled."""
    figure, (links, ranks) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    rates = list(figures["by_rate"])
    for number, key in enumerate(("rows_ms", "table_ms")):
        seconds = [figures["by_rate"][rate][key] / 1e3 for rate in rates]
        places = [place + 0.4 * (number - 0.5) for place in range(len(rates))]
        bars = links.barh(places, seconds, height=0.36, color=COLORS[key], label=SHOWN[key])
        links.bar_label(bars, [f" {each:.2f} s" for each in seconds], fontsize=8)
    links.set(xlabel="seconds per step", title="the miniature on two hosts, measured")
    links.set_yticks(range(len(rates)), [_rate(rate) for rate in rates])
    links.invert_yaxis()
    links.margins(x=0.12)
    links.legend(fontsize=8, loc="upper right")
    paper = figures["on_paper"]
    counts = [int(count) for count in paper["ranks"]]
    for key in ("rows", "table"):
        seconds = [paper["ranks"][str(count)][f"{key}_seconds"] for count in counts]
        per_second = [count / each for count, each in zip(counts, seconds, strict=True)]
        name = f"{key}_ms"
        ranks.plot(counts, per_second, "o-", color=COLORS[name], label=SHOWN[name])
        ranks.annotate(
            f"{per_second[-1]:,.0f}",
            (counts[-1], per_second[-1]),
            textcoords="offset points",
            xytext=(-6, 6),
            ha="right",
            fontsize=8,
        )
    ranks.set(xlabel="ranks", ylabel="pictures per second")
    ranks.set_title(f"Stable Diffusion 1.5 over {_rate(paper['rate'])}, on paper")
    ranks.margins(y=0.12)
    ranks.legend(fontsize=8)
    _save(figure, target)


def bootstrap_plot(figures: Figures, target: Path) -> None:
    """Seconds of a bootstrap by the number of hosts, and the bytes that one host would fetch."""
    figure, (times, volumes) = plt.subplots(
        1, 2, figsize=(10, 3.2), layout="constrained", width_ratios=(3, 2)
    )
    sizes = figures["sizes"]
    hosts = [str(size["hosts"]) for size in sizes]
    network = [size["network"] for size in sizes]
    times.bar(hosts, network, label="fetching and handing out")
    unpacking = [size["unpacking"] for size in sizes]
    bars = times.bar(
        hosts, unpacking, bottom=network, label="unpacking (all hosts share two cores)"
    )
    times.bar_label(
        bars, [f"{a + b:.0f} s" for a, b in zip(network, unpacking, strict=True)], fontsize=8
    )
    times.set(xlabel="hosts", ylabel="seconds", title="fab bootstrap, from bare hosts")
    times.margins(y=0.12)
    times.legend(fontsize=8)
    each = sizes[0]["outside"]
    counts = [size["hosts"] for size in sizes]
    volumes.plot(
        counts, [count * each / 1e9 for count in counts], "o--", color="C7",
        label="if every host fetched",
    )  # fmt: skip
    volumes.plot(
        counts, [size["outside"] / 1e9 for size in sizes], "o-", color="C2", label="measured"
    )
    volumes.set(xlabel="hosts", ylabel="GB", ylim=(0, None), title="downloaded from the internet")
    volumes.set_xticks(counts)
    volumes.legend(fontsize=8)
    _save(figure, target)


def scaling_tables(figures: Figures) -> dict[str, str]:
    """By the name of their place in the page."""
    links = [
        (
            _rate(rate),
            f"{found['no_network_ms']:.1f} ms",
            f"{found['rows_ms']:.1f} ms",
            f"{found['lost_percent']:+.1f} % ({found['lost_percent_95'][0]:+.1f} to"
            f" {found['lost_percent_95'][1]:+.1f})",
            f"{found['table_ms']:,.0f} ms",
            f"{found['rows_bytes'] / 1e3:.1f} kB / {found['table_bytes'] / 1e6:.0f} MB",
        )
        for rate, found in figures["by_rate"].items()
    ]
    head = ("link", "no network", "the word's vectors", "lost (95 %)", "whole table",
            "sent per host and step")  # fmt: skip
    paper = figures["on_paper"]
    ranks = [
        (f"{int(count):,}", f"{found['rows_seconds']:.3f} s", f"{found['table_seconds']:.2f} s")
        for count, found in paper["ranks"].items()
    ]
    return {
        "steps": _table(head, links),
        "paper": _table(("ranks", "the word's vectors", "whole table"), ranks),
    }


def bootstrap_tables(figures: Figures) -> dict[str, str]:
    """By the name of their place in the page; a second set of links has a place of its own."""
    rows = [
        (
            str(size["hosts"]),
            f"{size['seconds']:.0f} s",
            f"{size['network']:.1f} s",
            f"{size['unpacking']:.1f} s",
            f"{size['again']:.1f} s",
            f"{size['outside'] / 1e6:.1f} MB",
            f"{size['inside'] / 1e6:,.0f} MB",
        )
        for size in figures["sizes"]
    ]
    head = ("hosts", "all of it", "fetching and handing out", "unpacking", "a second time",
            "from outside", "most sent by one host")  # fmt: skip
    place = f"bootstrap-{figures['outside_rate']}-{figures['rate']}"
    return {place: _table(head, rows)}


def put(text: str, name: str, table: str) -> str:
    """The page with a table in its place, which two comments mark.

    Raises:
        ValueError: there is no such place.
    """
    place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not place.search(text):
        raise ValueError(f"the page has no place <!-- {name} -->")
    return place.sub(lambda found: f"{found[1]}{table}{found[2]}", text)


def tables() -> dict[str, str]:
    """All of what was measured."""
    found: dict[str, str] = {}
    makers = {"scaling": scaling_tables, "bootstrap": bootstrap_tables}
    for path in sorted(FIGURES.glob("*.json")):
        figures = json.loads(path.read_text())
        if make := makers.get(figures.get("benchmark", "")):  # others stand in other pages
            found |= make(figures)
    return found


def step_tables() -> dict[str, str]:
    """Of the page about a training step, by the name of their place in it."""
    found = {
        name: step_table(json.loads((FIGURES / f"{name}.json").read_text()))
        for name in ("train-step", "train-step-lora", "train-step-avx2", "train-step-lora-avx2")
    }
    for name, table in (("step-breakdown", breakdown_table), ("steps-to-quality", quality_table)):
        found[name] = table(json.loads((FIGURES / f"{name}.json").read_text()))
    return found


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _rate(rate: str) -> str:
    number, unit = re.fullmatch(r"(\d+)(gbit|mbit)", rate).groups()  # type: ignore[union-attr]
    return f"{number} {'Gbit/s' if unit == 'gbit' else 'Mbit/s'}"


def _save(figure: Any, target: Path) -> None:
    figure.savefig(target, metadata={"Date": None})
    plt.close(figure)


def main() -> int:
    """Plots and tables of all that was measured."""
    mpl.rcParams["svg.hashsalt"] = "benchmarks"
    for name, draw in (("scaling", scaling_plot), ("bootstrap", bootstrap_plot)):
        draw(json.loads((FIGURES / f"{name}.json").read_text()), DOCS / f"{name}.svg")
    text = PAGE.read_text()
    for name, table in tables().items():
        text = put(text, name, table)
    PAGE.write_text(text)
    ladder = json.loads((FIGURES / f"{LADDER}.json").read_text())
    _save(ladder_plot(ladder), DOCS / f"{LADDER}.svg")
    LADDER_PAGE.write_text(put(LADDER_PAGE.read_text(), LADDER, ladder_table(ladder)))
    breakdown = json.loads((FIGURES / "step-breakdown.json").read_text())
    _save(breakdown_plot(breakdown), DOCS / "step-breakdown.svg")
    text = STEP_PAGE.read_text()
    for name, table in step_tables().items():
        text = put(text, name, table)
    STEP_PAGE.write_text(text)
    pages = ", ".join(page.name for page in (PAGE, LADDER_PAGE, STEP_PAGE))
    print(f"wrote plots into docs/, and the tables of {pages}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
