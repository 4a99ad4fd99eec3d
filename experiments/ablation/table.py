"""What a study measured: figures of every cell group, its gain over id-only, and its content gain over the twin.

content gain = the same model with real vectors minus with shuffled ones: all that is left is what the vectors say.
Every difference is reported twice: of the mean scores over the seeds, with an interval over users, and of single runs,
with a paired t-test over the seeds (few seeds: far less power).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data.errors import InputError
from experiments.ablation.cells import Variant
from experiments.ablation.config import Study
from experiments.grid import Outcome
from ranker.compare import Rows, difference, read_runs, spread
from ranker.significance import holm

OVERALL = "overall"
METRICS = ("auc", "gauc")


def measure(
    study: Study, variants: Sequence[Variant], outcomes: Sequence[Outcome], split: str = "test"
) -> list[dict[str, Any]]:
    """One entry a cell group, in the order of `variants`.

    {name, mechanism, title, mode, dim, shuffled, seeds, failed {cell: line}, figures, cost, gain, content_gain}: see
    `ranker.compare` for figures and differences; what cannot be said is None. A content gain holds `holm`: its
    p-values (auc, gauc, overall) adjusted for the number of content gains in the study.

    Raises InputError if no run of id_only is finished, or a slice does not exist.
    """
    by_name: dict[str, list[Outcome]] = {variant.name: [] for variant in variants}
    for outcome in outcomes:
        by_name[outcome.cell.recipe.name].append(outcome)
    if all(o.error for o in by_name[study.id_only]):
        raise InputError(f"no run of {study.id_only!r} is finished; without it no gain can be measured")
    finished = [o.run for outcomes in by_name.values() for o in outcomes if not o.error]
    rows, recipes = read_runs(finished, split)
    rows = Rows(rows.label, rows.user, {name: _mask(rows, name) for name in study.slices})
    repeated = {recipe.name: recipe for recipe in recipes}
    facts = {name: spread(recipe, rows) for name, recipe in repeated.items()}

    def against(a: str, b: str) -> dict[str, Any] | None:
        if a == b or a not in repeated or b not in repeated:
            return None
        return difference(repeated[a], repeated[b], facts, rows, study.draws)

    groups = []
    for variant in variants:
        found = by_name[variant.name]
        groups.append(
            {
                "name": variant.name,
                "mechanism": variant.mechanism,
                "title": study.mechanism(variant.mechanism).title,
                "mode": variant.mode,
                "dim": variant.dim,
                "shuffled": variant.shuffled,
                "seeds": list(repeated[variant.name].scores) if variant.name in repeated else [],
                "failed": {o.cell.name: o.error for o in found if o.error},
                "figures": facts.get(variant.name),
                "cost": cost([o for o in found if not o.error]),
                "gain": against(study.id_only, variant.name),
                "content_gain": None if variant.shuffled else against(variant.twin.name, variant.name),
            }
        )
    _adjust([group["content_gain"] for group in groups if group["content_gain"]])
    return groups


def cost(outcomes: Sequence[Outcome]) -> dict[str, Any] | None:
    """Of finished runs: rows/s (the fastest seed: other work on the machine only slows), CPU seconds of a whole run
    (other work counts little), parameters, peak memory."""
    if not outcomes:
        return None
    metas = [outcome.run.meta() for outcome in outcomes]
    cpu = [meta["cpu_seconds"] for meta in metas if "cpu_seconds" in meta]  # runs of earlier versions have none
    return {
        "rows_per_second": max(meta["rows_per_second"] for meta in metas),
        "parameters": metas[0]["parameters"],
        "peak_rss_bytes": int(np.median([meta["peak_rss_bytes"] for meta in metas])),
        "seconds": float(np.median([meta["seconds"] for meta in metas])),
        "cpu_seconds": float(np.median(cpu)) if cpu else None,
    }


def of_users(found: dict[str, Any], where: str, metric: str) -> dict[str, Any]:
    """The difference of mean scores with its interval over users, overall or of a slice."""
    if where != OVERALL:
        return found["slices"][where][metric]
    return found["rows"]["auc_by_user" if metric == "auc" else metric]


def of_seeds(found: dict[str, Any], where: str, metric: str) -> dict[str, Any]:
    """The difference of single runs with its interval over seeds, overall or of a slice."""
    tests = found["seeds"] if where == OVERALL else found["slices"][where]["seeds"]
    return tests if "reason" in tests else tests.get(metric, {"reason": "one class only"})


def figure(group: dict[str, Any], where: str, metric: str) -> dict[str, Any] | None:
    """Mean, sd and values of a metric over the seeds, overall or of a slice; None if there are none."""
    if group["figures"] is None:
        return None
    return group["figures"][metric] if where == OVERALL else group["figures"]["slices"][where][metric]


def _mask(rows: Rows, name: str) -> np.ndarray:
    if name not in rows.masks:
        raise InputError(f"slices: no slice {name!r} here (there are: {', '.join(rows.masks)})")
    return rows.masks[name]


def _adjust(gains: Sequence[dict[str, Any]]) -> None:
    """Give every content gain its p-values adjusted over all of them and both metrics."""
    family = [of_users(gain, OVERALL, metric)["p"] for gain in gains for metric in METRICS]
    adjusted = iter(holm(family))
    for gain in gains:
        gain["holm"] = {metric: next(adjusted) for metric in METRICS}
