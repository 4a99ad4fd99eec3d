"""Recorded samples of a prepared dataset as the requests that a client would have sent."""

import numpy as np
import polars as pl

from data.dataset import Dataset
from features.queries import recorded_searches
from features.spec import SEARCHES
from features.surprise import COLUMN as SURPRISE
from features.surprise import surprises
from ranker.serving.requests import NUMPY
from ranker.serving.signature import HISTORY, LENGTHS, Signature

MISSING = {"INT64": -1, "FP64": float("nan"), "BYTES": "", "BOOL": False}  # what a client sends for a null


def recorded_requests(dataset: Dataset, split: str, signature: Signature, rows: slice | np.ndarray) -> pl.DataFrame:
    """One request a sample (rows of the split), in the columns of `signature`, histories whole."""
    frame = dataset.samples(split).collect(engine="streaming")[rows]
    ids = {kind: getattr(dataset, f"{kind}s")().select(f"{kind}_id").collect().to_series() for kind in ("item", "user")}
    columns = {
        "user": ids["user"][frame["user"].to_numpy()].alias("user"),
        "ts": frame["ts"].alias("ts"),
        "item": ids["item"][frame["item"].to_numpy()].alias("item"),
    }
    if SEARCHES in signature.lists:
        frame = frame.with_columns(recorded_searches(dataset, frame))
    columns |= {name: frame[name] for name in signature.context}
    names = signature.names("behaviours")
    if names:
        behaviors = dataset.behaviors()
        owner = frame["history_row" if "history_row" in frame.columns else "user"].to_numpy().astype(np.int64)
        start = np.asarray(behaviors.offsets[owner])
        lengths = frame["history_end"].to_numpy().astype(np.int64)
        at = np.concatenate([np.arange(s, s + n) for s, n in zip(start, lengths, strict=True)] or [start[:0]])
        item = np.asarray(behaviors.item[at]).astype(np.int64)
        flat = {"item": ids["item"][item], "ts": pl.Series(np.asarray(behaviors.ts[at]))}
        flat["action"] = pl.Series(dataset.actions, dtype=pl.String)[np.asarray(behaviors.action[at]).astype(np.int64)]
        flat |= {name: pl.Series(np.asarray(values[at])) for name, values in behaviors.side.items()}
        if HISTORY + SURPRISE in names:
            flat[SURPRISE] = pl.Series(np.asarray(surprises(dataset, behaviors)[at]))
        for name in names:
            columns[name] = _lists(flat[name.removeprefix(HISTORY)], lengths).alias(name)
    return pl.DataFrame(columns)


def tensors_of(signature: Signature, row: dict) -> dict[str, np.ndarray]:
    """The tensors of one row of `recorded_requests`."""
    found = {}
    for i in signature.inputs:
        name = i.name
        if name.endswith(LENGTHS) and name.removesuffix(LENGTHS) in signature.lists:
            found[name] = np.array([len(row[name.removesuffix(LENGTHS)] or [])], np.int64)
            continue
        value = row[name]
        values = value if isinstance(value, list) else [] if value is None and i.shape == "values" else [value]
        values = [MISSING[i.datatype] if v is None else v for v in values]
        found[name] = np.array(values, dtype=NUMPY[i.datatype])
    return found


def _lists(values: pl.Series, lengths: np.ndarray) -> pl.Series:
    ends = np.cumsum(lengths)
    return pl.Series(
        [values[int(e - n) : int(e)] for e, n in zip(ends, lengths, strict=True)], dtype=pl.List(values.dtype)
    )
