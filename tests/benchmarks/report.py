"""The rows as a table (with rich, if it is there) and as a plot (with matplotlib)."""

from __future__ import annotations

from typing import NamedTuple

HEADERS = ("figure", "ours", "peers", "ratio", "aim", "")


class Row(NamedTuple):
    """One figure; ``peers`` holds theirs, ``aims`` the largest ratio to the peer of that name that is aimed at."""

    name: str
    unit: str
    ours: float
    peers: dict[str, float]
    aims: dict[str, float] | None = None
    note: str = ""

    @property
    def ratios(self):
        return {name: self.ours / self.peers[name] for name in self.aims or {}}

    @property
    def is_missed(self):
        return any(ratio > self.aims[name] for name, ratio in self.ratios.items())


def show(value, unit):
    if unit != "s":
        return f"{value:,.0f} {unit}"
    for factor, name in ((1, "s"), (1e3, "ms"), (1e6, "us")):
        if value * factor >= 1 or factor == 1e6:
            return f"{value * factor:.3g} {name}"
    return ""


def cells(row):
    peers = "\n".join(
        f"{name} {show(value, row.unit)}  ({row.ours / value:.2g} x)" for name, value in row.peers.items()
    )
    ratios = "\n".join(f"{ratio:.2f}" for ratio in row.ratios.values())
    aims = "\n".join(f"{most:g} x {name}" for name, most in (row.aims or {}).items())
    verdict = "missed" if row.is_missed else ""
    return row.name, show(row.ours, row.unit), peers, ratios, aims, "; ".join(filter(None, (verdict, row.note)))


def print_table(rows):
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        for row in rows:
            print(" | ".join(cell.replace("\n", ", ") for cell in cells(row)))
        return
    table = Table(*HEADERS, show_lines=True)
    for row in rows:
        table.add_row(*cells(row))
    Console(width=140).print(table)


def plot(rows, path):
    """Draw ours against the peers, one panel per kind of figure, to a picture file."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    kinds = {}
    for row in rows:
        kinds.setdefault(row.name.split()[0].rstrip(","), []).append(row)
    across = min(4, len(kinds))
    down = -(-len(kinds) // across)
    size = (4.5 * across, 4.5 * down)
    figure, axes = pyplot.subplots(down, across, figsize=size, layout="constrained", squeeze=False)
    for axis in axes.flat[len(kinds) :]:
        axis.set_axis_off()
    for axis, (kind, some) in zip(axes.flat, kinds.items(), strict=False):
        names = ["ours", *dict.fromkeys(name for row in some for name in row.peers)]
        width = 0.8 / len(names)
        for index, name in enumerate(names):
            values = [row.ours if name == "ours" else row.peers.get(name, 0) for row in some]
            bars = axis.bar([place + index * width for place in range(len(some))], values, width, label=name)
            labels = [show(value, row.unit) if value else "" for value, row in zip(values, some, strict=True)]
            axis.bar_label(bars, labels, fontsize=7, rotation=90, padding=2)
        if kind not in {"load", "memory", "scan"}:
            axis.set_yscale("log")
        axis.margins(y=0.25)
        axis.set_xticks([place + 0.4 - width / 2 for place in range(len(some))])
        labels = [row.name.partition(" ")[2] + (f"\n{row.note}" if kind == "refresh" else "") for row in some]
        axis.set_xticklabels(labels, fontsize=6, rotation=12)
        axis.set_title(f"{kind} ({some[0].unit})")
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=120)
