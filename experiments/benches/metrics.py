"""`moon bench metrics`: exact AUC, GAUC, calibration and slices of many rows."""

import argparse
import time

import numpy as np

from experiments.benches import figures
from ranker import metrics


def main(argv: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser("moon bench metrics", description="Speed of the metrics.")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--slices", type=int, default=12, help="masks over the rows, each with AUC and GAUC")
    figures.options(parser)
    args = parser.parse_args(argv)
    rng = np.random.default_rng(0)
    label = (rng.random(args.rows) < 0.05).astype(np.int8)
    score = np.clip(rng.normal(0.05 + 0.02 * label, 0.02), 1e-4, 1 - 1e-4)
    user = rng.integers(0, args.users, args.rows)
    shares = np.linspace(0.02, 0.5, args.slices)
    masks = {f"slice{i}": rng.random(args.rows) < share for i, share in enumerate(shares)}
    found: dict[str, float] = {"rows": args.rows, "users": args.users, "slices": args.slices}
    started = time.perf_counter()
    metrics.report(label, score, user, masks)
    found["report_seconds"] = time.perf_counter() - started
    for name, work in (
        ("auc", lambda: metrics.auc(label, score)),
        ("gauc", lambda: metrics.gauc(label, score, user)),
        ("reliability", lambda: metrics.reliability(label, score)),
    ):
        started = time.perf_counter()
        work()
        found[f"{name}_seconds"] = time.perf_counter() - started
    found["report_rows_per_second"] = args.rows / found["report_seconds"]
    return figures.report("metrics", found, args)
