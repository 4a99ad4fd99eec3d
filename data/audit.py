"""Point-in-time audit of a prepared dataset: does any sample know what it could not have known?

Every check recomputes what is stored by another road (plain filters over the samples) on a seeded sample of
rows, so that its cost does not grow with the log squared.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import polars as pl

from data.dataset import SPLITS, Behaviors, Dataset

ROWS = 20_000
ENTITIES = 64


@dataclass
class Findings:
    """Result of an audit: checks passed (name -> what was looked at) and problems, one line each."""

    passed: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def note(self, check: str, looked_at: str, problem: str | None) -> None:
        """Record one check's outcome."""
        if problem:
            self.problems.append(f"{check}: {problem}")
        else:
            self.passed[check] = looked_at


def audit(dataset: Dataset, seed: int = 0) -> Findings:
    """Run all checks; each problem names check, split, row, column, what was expected and found."""
    findings = Findings()
    behaviors = dataset.behaviors()
    timed = dataset.timed_histories
    splits = [s for s in SPLITS if dataset.meta["counts"][s]]
    _behaviour_order(findings, behaviors, timed, seed)
    for split in splits:
        _values(findings, dataset, split)
    if findings.problems:
        return findings  # the other checks follow these pointers
    for split in splits:
        rows = _some_rows(dataset, split, seed)
        _sample_order(findings, dataset, split)
        _first_seen(findings, dataset, split)
        if timed:
            _history(findings, behaviors, rows, split)
        else:
            findings.note(f"history ({split})", "order given by the source, times unknown", None)
    if splits:
        _statistics(findings, dataset, splits, seed)
        _split_order(findings, dataset, splits)
    return findings


def _values(findings: Findings, dataset: Dataset, split: str) -> None:
    """Labels are 0 or 1; users and items stand in their tables."""
    check, counts = f"values in range ({split})", dataset.meta["counts"]
    rows = dataset.samples(split).select("user", "item", "label").with_row_index("row")
    for column, high in (("user", counts["users"] - 1), ("item", counts["items"] - 1), ("label", 1)):
        wrong = rows.filter(~pl.col(column).is_between(0, high).fill_null(False)).select("row", column)
        found = wrong.head(1).collect(engine="streaming")
        if len(found):
            row, value = found.row(0)
            problem = f"samples/{split} row {row}, column {column!r} is {value}, outside 0..{high}"
            return findings.note(check, "", problem)
    return findings.note(check, f"{counts[split]:,} rows", None)


def _first_seen(findings: Findings, dataset: Dataset, split: str) -> None:
    """No item is shown before its first_seen_ts."""
    seen = dataset.items().select(pl.col("first_seen_ts").cast(pl.Int64).alias("seen")).with_row_index("item")
    rows = dataset.samples(split).select("item", "ts").with_row_index("row")
    rows = rows.join(seen.with_columns(pl.col("item").cast(pl.Int32)), on="item", how="left")
    early = rows.filter((pl.col("ts") < pl.col("seen")) | pl.col("seen").is_null()).select("row", "item", "ts", "seen")
    found = early.head(1).collect(engine="streaming")
    problem = None
    if len(found):
        row, item, ts, first = found.row(0)
        problem = f"samples/{split} row {row} shows item {item} at {ts}; items.parquet says first_seen_ts = {first}"
    findings.note(
        f"items are first seen when shown or before ({split})", f"{dataset.meta['counts'][split]:,} rows", problem
    )


def _some_rows(dataset: Dataset, split: str, seed: int) -> pl.DataFrame:
    """At most ROWS rows in whole row order, with their row number."""
    total = dataset.meta["counts"][split]
    rows = dataset.samples(split).with_row_index("row")
    if total > ROWS:
        step = total // ROWS + 1
        rows = rows.filter(pl.col("row") % step == seed % step)
    return rows.collect(engine="streaming")


def _behaviour_order(findings: Findings, behaviors: Behaviors, timed: bool, seed: int) -> None:
    offsets = np.asarray(behaviors.offsets)
    check = "behaviours ordered by time"
    if len(offsets) < 2 or not timed:
        return findings.note(check, "no times to order", None)
    users = np.random.default_rng(seed).integers(0, len(offsets) - 1, 1000)
    for user in np.unique(users):
        times = behaviors.ts[offsets[user] : offsets[user + 1]]
        wrong = np.flatnonzero(np.diff(times) < 0)
        if len(wrong):
            at = int(offsets[user] + wrong[0] + 1)
            return findings.note(
                check, "", f"behaviors/ts.npy row {at} (user {user}) is earlier than the one before it"
            )
    return findings.note(check, f"{len(np.unique(users)):,} users", None)


def _sample_order(findings: Findings, dataset: Dataset, split: str) -> None:
    rows = dataset.samples(split).select("ts", "user", "item").with_row_index("row")
    later = rows.with_columns(pl.col("ts", "user", "item").shift(1).name.suffix("_before")).filter(
        (pl.col("ts") < pl.col("ts_before"))
        | ((pl.col("ts") == pl.col("ts_before")) & (pl.col("user") < pl.col("user_before")))
        | (
            (pl.col("ts") == pl.col("ts_before"))
            & (pl.col("user") == pl.col("user_before"))
            & (pl.col("item") < pl.col("item_before"))
        )
    )
    wrong = later.head(1).collect(engine="streaming")
    problem = f"samples/{split} row {wrong['row'][0]} breaks the order of (ts, user, item)" if len(wrong) else None
    findings.note(f"samples ordered ({split})", f"{dataset.meta['counts'][split]:,} rows", problem)


def _history(findings: Findings, behaviors: Behaviors, rows: pl.DataFrame, split: str) -> None:
    """No behaviour at or after the sample; none left out; the target's own event is not in its history."""
    user, end, ts = rows["user"].to_numpy(), rows["history_end"].to_numpy(), rows["ts"].to_numpy()
    start, stop = behaviors.offsets[user], behaviors.offsets[user + 1]
    last, following = start + end - 1, start + end
    looked = f"{len(rows):,} rows"
    total = len(behaviors.ts)
    some = end > 0
    before = np.clip(last, 0, max(total - 1, 0))
    times = np.where(some, behaviors.ts[before] if total else 0, np.iinfo(np.int64).min)
    late = np.flatnonzero((end < 0) | (following > stop) | (some & (times >= ts)))
    problem = None
    if len(late):
        i = late[0]
        problem = (
            f"samples/{split} row {rows['row'][int(i)]}, column 'history_end' = {end[i]} reaches a behaviour at "
            f"{times[i]}, not before the sample's ts {ts[i]}"
        )
        if some[i] and behaviors.item[before[i]] == rows["item"][int(i)] and times[i] == ts[i]:
            problem += "; it is the target itself (target in its own history)"
    findings.note(f"no future behaviour in a history ({split})", looked, problem)
    missing = following < stop
    next_times = np.where(
        missing,
        behaviors.ts[np.clip(following, 0, max(total - 1, 0))] if total else 0,
        np.iinfo(np.int64).max,
    )
    short = np.flatnonzero(next_times < ts)
    problem = None
    if len(short):
        i = short[0]
        at, row = next_times[i], rows["row"][int(i)]
        problem = f"samples/{split} row {row}, column 'history_end' = {end[i]} leaves out a behaviour at {at}"
    findings.note(f"histories are complete ({split})", looked, problem)


def _statistics(findings: Findings, dataset: Dataset, splits: list[str], seed: int) -> None:
    """Point-in-time counts of a few entities, recounted from the train rows by a self-join on time."""
    train = dataset.samples("train")
    rng = np.random.default_rng(seed)
    for entity in ("item", "user"):
        for split in splits:
            rows = dataset.samples(split).with_row_index("row")
            present = rows.select(entity).unique().sort(entity).collect(engine="streaming")[entity].to_numpy()
            chosen = rng.choice(present, min(ENTITIES, len(present)), replace=False).tolist()
            events = (
                train.filter(pl.col(entity).is_in(chosen)).select(entity, "ts", "label").collect(engine="streaming")
            )
            wanted = rows.filter(pl.col(entity).is_in(chosen)).collect(engine="streaming")
            problem = _recount(events, wanted, entity, split)
            findings.note(
                f"{entity} statistics see earlier train rows only ({split})",
                f"{len(wanted):,} rows of {len(chosen)} {entity}s",
                problem,
            )


def _recount(events: pl.DataFrame, rows: pl.DataFrame, entity: str, split: str) -> str | None:
    past = {key[0]: frame.sort("ts") for key, frame in events.partition_by(entity, as_dict=True).items()}
    for (key,), frame in rows.partition_by(entity, as_dict=True).items():
        before = past.get(key)
        times = before["ts"].to_numpy() if before is not None else np.empty(0, np.int64)
        labels = np.concatenate(([0], np.cumsum(before["label"].to_numpy()))) if before is not None else np.zeros(1)
        place = np.searchsorted(times, frame["ts"].to_numpy(), side="left")
        for column, expected in ((f"{entity}_impressions", place), (f"{entity}_positives", labels[place])):
            stored = frame[column].to_numpy()
            wrong = np.flatnonzero(stored != expected)
            if len(wrong):
                i = int(wrong[0])
                return (
                    f"samples/{split} row {frame['row'][i]}, column {column!r} is {stored[i]}; {int(expected[i])} "
                    f"train rows of {entity} {key} are strictly earlier: it has seen the future, its own second, or "
                    "rows outside train"
                )
    return None


def _split_order(findings: Findings, dataset: Dataset, splits: list[str]) -> None:
    """Within a user (or over all) no later split starts before an earlier one has ended."""
    rule = dataset.meta["split"]["rule"]
    if rule == "given" or len(splits) < 2:
        return findings.note("split order", f"rule {rule!r}: the source's own", None)
    for before, after in pairwise(splits):
        check = f"{before} rows come before {after} rows"
        ends = dataset.samples(before).group_by("user").agg(pl.col("ts").max().alias("end"))
        rows = dataset.samples(after).with_row_index("row").select("row", "user", "ts")
        if rule == "temporal":
            end = dataset.samples(before).select(pl.col("ts").max()).collect(engine="streaming")["ts"][0]
            wrong = rows.filter(pl.col("ts") <= end).head(1).collect(engine="streaming")
        else:
            wrong = rows.join(ends, on="user").filter(pl.col("ts") < pl.col("end")).head(1).collect(engine="streaming")
        problem = (
            f"samples/{after} row {wrong['row'][0]} (ts {wrong['ts'][0]}) is earlier than a {before} row"
            if len(wrong)
            else None
        )
        findings.note(check, f"all rows, rule {rule!r}", problem)
    return None
