"""Requests in columns: R users at a moment each, with their candidates and behaviours end to end."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from data.errors import InputError
from ranker.serving.signature import HISTORY, LENGTHS, Input, Signature

NUMPY = {"INT64": np.int64, "FP64": np.float64, "BOOL": np.bool_, "BYTES": np.str_}
LAST_MOMENT = 1 << 61  # Unix seconds; differences of two moments fit 64 bits


@dataclass(frozen=True)
class Requests:
    """R requests with B candidates and N behaviours together.

    Attributes:
        user: (R,) ids. ts: (R,) int64 Unix seconds. candidates, behaviours: (R,) int64 counts.
        item: (B,) ids. context: by column, (B,) each.
        history: by column (`item`, `ts`, `action` as int8 codes, side columns), (N,) each; oldest first a request.
    """

    user: np.ndarray
    ts: np.ndarray
    candidates: np.ndarray
    behaviours: np.ndarray
    item: np.ndarray
    context: dict[str, pl.Series]
    history: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.user)

    @staticmethod
    def joined(parts: "list[Requests]") -> "Requests":
        """Several as one, in order."""
        if len(parts) == 1:
            return parts[0]

        def cat(name: str) -> np.ndarray:
            return np.concatenate([getattr(part, name) for part in parts])

        context = {c: pl.concat([part.context[c] for part in parts]) for c in parts[0].context}
        history = {c: np.concatenate([part.history[c] for part in parts]) for c in parts[0].history}
        names = ("user", "ts", "candidates", "behaviours", "item")
        return Requests(**{name: cat(name) for name in names}, context=context, history=history)


def request_of(signature: Signature, tensors: dict[str, np.ndarray]) -> Requests:
    """One request from its tensors (one-dimensional, text as str arrays).

    Raises InputError naming the tensor and what would be right.
    """
    for name in tensors:
        if not any(i.name == name for i in signature.inputs):
            known = ", ".join(i.name for i in signature.inputs)
            raise InputError(f"input {name!r}: the model has no such input; its inputs: {known}")
    found = {i.name: _typed(i, tensors) for i in signature.inputs}
    for name in signature.names("one"):
        if len(found[name]) != 1:
            raise InputError(f"input {name!r}: {len(found[name])} values, must be one")
    count = len(found["item"])
    if not count:
        raise InputError("input 'item': no candidate; give at least one")
    ts = found["ts"]
    if abs(int(ts[0])) > LAST_MOMENT:
        raise InputError(f"input 'ts': {ts[0]} is no moment in Unix seconds")
    history = {n.removeprefix(HISTORY): found[n] for n in signature.names("behaviours")}
    if history:
        history = _checked(signature, history, int(ts[0]))
    context = {column: _context(signature, column, found, count) for column in signature.context}
    sizes = np.array([count], np.int64), np.array([len(history.get("item", ()))], np.int64)
    return Requests(found["user"], ts, *sizes, found["item"], context, history)


def requests_of(signature: Signature, frame: pl.DataFrame) -> Requests:
    """One request a row of a table whose columns have the names of the inputs; behaviours are lists.

    Raises InputError naming the column.
    """
    rows = len(frame)
    for i in signature.inputs:
        if i.name not in frame.columns and not i.name.endswith(LENGTHS):
            raise InputError(f"no column {i.name!r} ({i.datatype}: {i.meaning})")
    history, lengths = {}, np.zeros(rows, np.int64)
    for name in signature.names("behaviours"):
        column = frame[name]
        if not isinstance(column.dtype, pl.List):
            raise InputError(f"column {name!r} is {column.dtype}; must be a list of {signature.input(name).datatype}")
        own = column.list.len().fill_null(0).to_numpy().astype(np.int64)
        if name != "history.item" and not np.array_equal(own, lengths):
            row = int(np.flatnonzero(own != lengths)[0])
            whose = f"user {frame['user'][row]!r} at ts {frame['ts'][row]}"
            raise InputError(f"{whose}: {name} has {own[row]} values, history.item {lengths[row]}")
        lengths = own
        flat = column.drop_nulls().explode(keep_nulls=True, empty_as_null=False)
        history[name.removeprefix(HISTORY)] = _column(signature.input(name), flat, signature.actions)
    one = {name: _column(signature.input(name), frame[name]) for name in ("user", "ts", "item")}
    ones = np.ones(rows, np.int64)
    context = {column: frame[column] for column in signature.context}
    return Requests(one["user"], one["ts"], ones, lengths, one["item"], context, history)


def _column(i: Input, series: pl.Series, actions: Sequence[str] = ()) -> np.ndarray:
    """Values (n,) of a column without nulls; of `history.action` the int8 codes, which are many and few distinct."""
    if series.null_count():
        raise InputError(f"column {i.name!r}: {series.null_count()} null values; it needs {i.datatype}")
    text = series.dtype in (pl.String, pl.Categorical, pl.Enum)
    if text != (i.datatype == "BYTES"):
        raise InputError(f"column {i.name!r} is {series.dtype}; it needs {i.datatype}")
    if i.name == HISTORY + "action":
        codes = series.cast(pl.String).cast(pl.Enum(actions), strict=False)
        if codes.null_count():
            raise _no_action(series.filter(codes.is_null())[0], actions)
        return codes.to_physical().to_numpy().astype(np.int8)
    if text:
        return np.array(series.cast(pl.String).to_list(), dtype=np.str_)
    return series.to_numpy().astype(NUMPY[i.datatype])


def _typed(i: Input, tensors: dict[str, np.ndarray]) -> np.ndarray:
    if i.name not in tensors:
        raise InputError(f"input {i.name!r} is missing ({i.datatype}: {i.meaning})")
    values = tensors[i.name]
    text = values.dtype.kind == "U"
    if text != (i.datatype == "BYTES") or (i.datatype == "INT64" and values.dtype.kind not in "iu"):
        raise InputError(f"input {i.name!r}: has datatype {values.dtype}, must be {i.datatype}")
    if i.datatype == "INT64" and values.dtype == np.uint64 and len(values) and values.max() > np.iinfo(np.int64).max:
        raise InputError(f"input {i.name!r}: {values.max()} does not fit INT64")
    return values if text else values.astype(NUMPY[i.datatype], copy=False)


def _checked(signature: Signature, history: dict[str, np.ndarray], ts: int) -> dict[str, np.ndarray]:
    length = len(history["item"])
    for name, values in history.items():
        if len(values) != length:
            raise InputError(f"input 'history.{name}': {len(values)} values, 'history.item' has {length}")
    moments = history["ts"]
    if length and moments[-1] >= ts:
        raise InputError(f"input 'history.ts': {moments[-1]} is not before ts {ts}; give earlier behaviours only")
    if length and moments[0] < -LAST_MOMENT:
        raise InputError(f"input 'history.ts': {moments[0]} is no moment in Unix seconds")
    back = np.flatnonzero(moments[1:] < moments[:-1])
    if len(back):
        at = int(back[0])
        raise InputError(f"input 'history.ts': {moments[at + 1]} comes after {moments[at]}; give the oldest first")
    if "action" in history:
        history = history | {"action": _codes(signature, history["action"])}
    return history


def _codes(signature: Signature, names: np.ndarray) -> np.ndarray:
    codes = {name: code for code, name in enumerate(signature.actions)}
    try:
        return np.array([codes[name] for name in names.tolist()], np.int8)
    except KeyError as unknown:
        raise _no_action(unknown.args[0], signature.actions) from None


def _no_action(name: str, actions: Sequence[str]) -> InputError:
    return InputError(f"input 'history.action': {name!r} is no action; actions: {', '.join(actions)}")


def _context(signature: Signature, column: str, found: dict[str, np.ndarray], count: int) -> pl.Series:
    values = found[column]
    if column not in signature.lists:
        return pl.Series(column, _spread(column, values, count))
    lengths = found[column + LENGTHS]
    each = (lengths >= 0).all() and (lengths <= len(values)).all()
    if not each or lengths.sum() != len(values) or len(lengths) not in (1, count):
        raise InputError(
            f"input '{column}{LENGTHS}': must be {count} (or 1) counts that sum to the {len(values)} values"
        )
    lists = pl.Series(column, values).reshape((len(values),)) if len(values) else pl.Series(column, values)
    ends = np.cumsum(lengths)
    parts = [lists[int(e - n) : int(e)] for e, n in zip(ends, lengths, strict=True)]
    return pl.Series(column, parts * (count if len(parts) == 1 else 1), dtype=pl.List(lists.dtype))


def _spread(name: str, values: np.ndarray, count: int) -> np.ndarray:
    if len(values) not in (1, count):
        raise InputError(f"input {name!r}: {len(values)} values for {count} candidates; give {count}, or 1 for all")
    return values if len(values) == count else np.broadcast_to(values, (count,))
