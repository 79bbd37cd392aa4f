"""The soak's curve: what the KV caches of both servers took, over time.

python project/experiments/exp_006/draw.py DIR
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

TITLES = {"ours": "semantic serve --kv-memory", "stock": "mlx_lm.server --prompt-cache-bytes"}


def main() -> None:
    out = Path(sys.argv[1])
    results = json.loads((out / "summary.json").read_text())["results"]
    figure, axes = pyplot.subplots(
        len(results), 1, figsize=(9, 3 * len(results)), sharex=True, sharey=True, squeeze=False
    )
    for axis, result in zip(axes[:, 0], results, strict=True):
        rows = list(csv.reader((out / f"{result['server']}.csv").open()))[1:]
        seconds = [float(row[0]) for row in rows]
        running = [float(row[1]) / 1e6 for row in rows]
        cached = [float(row[2]) / 1e6 for row in rows]
        axis.stackplot(seconds, running, cached, labels=["running", "cached"])
        axis.axhline(result["limit_bytes"] / 1e6, color="black", linestyle="--", label="limit")
        axis.set_title(TITLES[result["server"]])
        axis.set_ylabel("KV caches, MB")
        axis.legend(loc="upper right", fontsize="small")
    axes[-1, 0].set_xlabel("seconds")
    figure.tight_layout()
    figure.savefig(out / "soak.png", dpi=110)


if __name__ == "__main__":
    main()
