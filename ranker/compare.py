"""`moon compare RUN RUN...`: recipes against the first one, on the same rows, with intervals and p-values."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from data.dataset import Dataset
from data.errors import InputError
from data.files import write_json
from ranker import metrics
from ranker.run_folder import RunFolder
from ranker.significance import Resampled, bootstrap, delong, paired_t, resampled_auc, resampled_gauc
from ranker.slices import slices

KEYS = ("row", "user", "item", "label")
SHOWN = ("auc", "gauc", "logloss", "pcoc")
FIGURES = ("auc", "gauc", "logloss", "ne", "pcoc", "ece")
RESAMPLED = {"auc": resampled_auc, "gauc": resampled_gauc}


@dataclass(frozen=True)
class Repeated:
    """Runs of one recipe that differ by seed.

    Attributes:
        scores: by seed, (n,) in row order. mean: over the seeds, what paired tests on rows are made with.
    """

    name: str
    scores: dict[int, np.ndarray]

    def mean(self, seeds: Sequence[int]) -> np.ndarray:
        """Mean score of each row over seeds (the ensemble, if there are several)."""
        return np.mean([self.scores[seed] for seed in seeds], axis=0)


@dataclass(frozen=True)
class Rows:
    """The rows that runs share. label, user: (n,). masks: the slices by name, (n,) bool each.

    Keeps what it resampled: a recipe is held against several others.
    """

    label: np.ndarray
    user: np.ndarray
    masks: dict[str, np.ndarray]
    _kept: dict[Any, Resampled] = field(default_factory=dict, repr=False, compare=False)

    def resampled(self, metric: str, recipe: Repeated, where: str | None, drawn: "Drawn") -> Resampled:
        """AUC or GAUC of the mean scores over some seeds, on all rows (None) or a slice, over draws of users.

        Raises InputError where the metric is not defined.
        """
        key = metric, recipe.name, where, drawn
        if key not in self._kept:
            of = slice(None) if where is None else self.masks[where]
            score = recipe.mean(drawn.seeds)[of]
            self._kept[key] = RESAMPLED[metric](self.label[of], score, self.user[of], drawn.draws, drawn.seed)
        return self._kept[key]


@dataclass(frozen=True)
class Drawn:
    """What is resampled: the seeds that are averaged, the number of draws, the seed of the draws."""

    seeds: tuple[int, ...]
    draws: int
    seed: int


def main(argv: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser("moon compare", description="Recipes against the first one.")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="runs; seeds of a recipe are grouped by name")
    parser.add_argument("--split", default="test", choices=("train", "valid", "test"))
    parser.add_argument("--draws", type=int, default=1000, help="bootstrap draws (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args(argv)
    if args.draws < 100:
        raise InputError(f"--draws {args.draws}: an interval needs at least 100 draws")
    found = compare([RunFolder(run) for run in args.runs], args.split, args.draws, args.seed)
    print(text(found))
    if args.json:
        write_json(args.json, found)
    return 0


def compare(runs: list[RunFolder], split: str, draws: int = 1000, seed: int = 0) -> dict[str, Any]:
    """Figures of every recipe and its differences from the first, overall and by slice.

    Raises InputError if runs were not scored on the same rows, or two share recipe and seed.
    """
    rows, recipes = read_runs(runs, split)
    facts = {r.name: spread(r, rows) for r in recipes}
    base = recipes[0]
    return {
        "split": split,
        "rows": len(rows.label),
        "recipes": facts,
        "differences": {r.name: difference(base, r, facts, rows, draws, seed) for r in recipes[1:]},
    }


def read_runs(runs: list[RunFolder], split: str) -> tuple[Rows, list[Repeated]]:
    """The rows that runs share, and the recipes in order of first mention.

    Raises InputError if runs were not scored on the same rows, or two share recipe and seed.
    """
    frame, recipes = _read(runs, split)
    masks = slices(_dataset(runs[0]), frame)
    return Rows(frame["label"].to_numpy(), frame["user"].to_numpy(), masks), recipes


def spread(recipe: Repeated, rows: Rows) -> dict[str, Any]:
    """Figures of a recipe: mean, sd and values over its seeds, overall and by slice."""
    per_seed = [metrics.report(rows.label, score, rows.user, rows.masks) for score in recipe.scores.values()]
    columns = {name: mean_sd(np.array([found[name] for found in per_seed])) for name in FIGURES}
    parts = {name: _slice_spread([found["slices"][name] for found in per_seed]) for name in rows.masks}
    return {"seeds": list(recipe.scores)} | columns | {"slices": parts}


def difference(
    a: Repeated, b: Repeated, facts: dict[str, dict[str, Any]], rows: Rows, draws: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Recipe b minus recipe a, overall and by slice, with the two kinds of test that the data allow.

    `rows`: the mean scores over the seeds that both have, on rows (DeLong) and over users (bootstrap). `seeds`: a
    paired t-test of single runs over those seeds. `facts`: `spread` of each, by name.
    """
    seeds = [s for s in a.scores if s in b.scores]
    drawn = [Drawn(tuple(seeds or r.scores), draws, seed) for r in (a, b)]

    def test(metric: str, where: str | None) -> dict[str, Any]:
        return bootstrap(*(rows.resampled(metric, r, where, d) for r, d in zip((a, b), drawn, strict=True))).as_dict()

    def single_runs(x: dict[str, Any], y: dict[str, Any]) -> dict[str, Any]:
        return _over_seeds(x, y, list(a.scores), list(b.scores), seeds)

    x, y = (r.mean(d.seeds) for r, d in zip((a, b), drawn, strict=True))
    on_rows = {"auc": delong(rows.label, x, y).as_dict(), "auc_by_user": test("auc", None), "gauc": test("gauc", None)}
    found: dict[str, Any] = {"against": a.name, "rows": on_rows, "slices": {}}
    found["seeds"] = single_runs(facts[a.name], facts[b.name])
    for name in rows.masks:
        part = _on_slice(rows, name, test)
        part["seeds"] = single_runs(facts[a.name]["slices"][name], facts[b.name]["slices"][name])
        found["slices"][name] = part
    return found


def _read(runs: list[RunFolder], split: str) -> tuple[pl.DataFrame, list[Repeated]]:
    """The rows they share (with history_end, for slices) and the recipes in order of first mention."""
    first = runs[0]
    keys = first.read_predictions(split)
    scores: dict[str, dict[int, np.ndarray]] = {}
    for run in runs:
        meta, frame = run.meta(), run.read_predictions(split)
        _require_same_rows(first, keys, run, frame)
        of_recipe = scores.setdefault(meta["name"], {})
        if meta["seed"] in of_recipe:
            raise InputError(f"{run.root}: a second run of recipe {meta['name']!r} with seed {meta['seed']}")
        of_recipe[meta["seed"]] = frame["score"].to_numpy()
    history = _dataset(first).samples(split).select("history_end").collect(engine="streaming")
    return pl.concat([keys, history], how="horizontal"), [
        Repeated(name, dict(sorted(by_seed.items()))) for name, by_seed in scores.items()
    ]


def _require_same_rows(first: RunFolder, keys: pl.DataFrame, run: RunFolder, frame: pl.DataFrame) -> None:
    if len(keys) != len(frame):
        raise InputError(f"{run.root}: scored {len(frame):,} rows, {first.root} {len(keys):,}; compare the same rows")
    for key in KEYS:
        differ = np.flatnonzero(keys[key].to_numpy() != frame[key].to_numpy())
        if len(differ):
            at, then, now = differ[0], keys[key][int(differ[0])], frame[key][int(differ[0])]
            raise InputError(
                f"{run.root}: {key} of row {at} is {now}, in {first.root} it is {then}; compare the same rows"
            )
    ours, theirs = run.meta()["dataset"]["fingerprint"], first.meta()["dataset"]["fingerprint"]
    if ours != theirs:
        raise InputError(f"{run.root}: dataset {ours[:12]}, {first.root} has {theirs[:12]}; compare on one dataset")


def _dataset(run: RunFolder) -> Dataset:
    return Dataset(run.meta()["dataset"]["path"])


def mean_sd(values: np.ndarray) -> dict[str, Any]:
    """Mean, sample deviation (None for one value) and the values."""
    sd = float(values.std(ddof=1)) if len(values) > 1 else None
    return {"mean": float(values.mean()), "sd": sd, "values": values.tolist()}


def _slice_spread(parts: list[dict[str, Any]]) -> dict[str, Any]:
    facts = {k: v for k, v in parts[0].items() if k in ("rows", "positives", "too_small", "reason")}
    for name in ("auc", "gauc"):
        values = [part[name] for part in parts]
        facts[name] = None if None in values else mean_sd(np.array(values, np.float64))
    return facts


def _on_slice(rows: Rows, name: str, test: Callable[[str, str], dict[str, Any]]) -> dict[str, Any]:
    facts: dict[str, Any] = {"rows": int(rows.masks[name].sum())}
    for metric in RESAMPLED:
        try:
            facts[metric] = test(metric, name)
        except InputError as reason:
            facts[metric] = {"reason": str(reason)}
    return facts


def _over_seeds(
    a: dict[str, Any], b: dict[str, Any], seeds_a: list[int], seeds_b: list[int], seeds: list[int]
) -> dict[str, Any]:
    """Paired t-tests of the figures in `a` and `b` (values by seeds_a, seeds_b) over the common `seeds`."""
    if len(seeds) < 2:
        return {"reason": f"{len(seeds)} common seed(s); a t-test needs two"}
    found: dict[str, Any] = {}
    for name in SHOWN:
        if a.get(name) is None or b.get(name) is None:
            continue
        at_a, at_b = [seeds_a.index(s) for s in seeds], [seeds_b.index(s) for s in seeds]
        found[name] = paired_t(np.array(a[name]["values"])[at_a], np.array(b[name]["values"])[at_b]).as_dict()
    return found


def text(found: dict[str, Any]) -> str:
    """The comparison as an aligned table."""
    lines = [f"split {found['split']}, {found['rows']:,} rows"]
    width = max(map(len, found["recipes"]))
    lines.append(f"{'recipe':<{width}}  seeds  " + "  ".join(f"{name:<17}" for name in SHOWN))
    for name, facts in found["recipes"].items():
        cells = "  ".join(f"{_pm(facts[metric]):<17}" for metric in SHOWN)
        lines.append(f"{name:<{width}}  {len(facts['seeds']):>5}  {cells}")
    for name, facts in found["differences"].items():
        many = len(found["recipes"][name]["seeds"]) > 1
        note = " (mean scores over seeds)" if many else ""
        lines.append(f"\n{name} minus {facts['against']}{note}")
        for title, metric in (("AUC", "auc"), ("AUC, users", "auc_by_user"), ("GAUC", "gauc")):
            lines.append(f"  {title:<24} {_difference(facts['rows'][metric])}  {facts['rows'][metric]['method']}")
        for metric in () if "reason" in facts["seeds"] else ("auc", "gauc"):
            test = facts["seeds"][metric]
            lines.append(f"  {metric.upper() + ', one run':<24} {_difference(test)}  {test['method']}")
        if "reason" in facts["seeds"]:
            lines.append(f"  over seeds: {facts['seeds']['reason']}")
        for title, part in facts["slices"].items():
            small = " (too small to mean anything)" if found["recipes"][name]["slices"][title].get("too_small") else ""
            cells = "  ".join(f"{metric.upper()} {_difference(part[metric])}" for metric in ("auc", "gauc"))
            lines.append(f"  {title:<24} {cells}  {part['rows']:,} rows{small}")
    return "\n".join(lines)


def _pm(value: dict[str, Any]) -> str:
    return f"{value['mean']:.5f}" + (f" +- {value['sd']:.5f}" if value["sd"] is not None else "")


def _difference(d: dict[str, Any]) -> str:
    return "-" if "reason" in d else f"{d['delta']:+.5f} [{d['low']:+.5f}, {d['high']:+.5f}] p {d['p']:.3g}"
