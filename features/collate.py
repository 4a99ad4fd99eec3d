"""From a window of encoded samples to a batch. Work grows with the batch's own ids, never with the vocabulary."""

import threading

import numpy as np
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from features.batch import Batch, QueryBatch, SequenceBatch
from features.histories import Histories, ranges
from features.samples import SampleEncoder, Window, action_code
from features.spec import (
    SAME,
    SEARCHES,
    SEARCHES_QUERY,
    BucketFeature,
    IdFeature,
    Sequence,
    code_names,
    is_item,
    side_name,
)
from features.surprise import COLUMN as SURPRISE
from features.surprise import surprises
from features.vocabulary import OOV

MAX_COMBINATIONS = 1 << 22


class Collator:
    """Builds batches for one dataset; safe to call from several threads."""

    def __init__(self, samples: SampleEncoder) -> None:
        self.samples = samples
        self.spec = samples.encoder.spec
        self._items = samples.items.size
        self._local = threading.local()
        dataset = samples.dataset
        self._behaviors = dataset.behaviors()
        self._histories = {
            s.name: Histories(self._behaviors, tuple(action_code(dataset, a) for a in s.actions) if s.actions else None)
            for s in self.spec.sequences
        }
        lookups = self.spec.lookups()
        self._dims = {name: self.spec.table(table).dim for table, name in lookups}
        self._keys = {dim: [n for _, n in lookups if self._dims[n] == dim] for dim in sorted(set(self._dims.values()))}
        if any(SURPRISE in s.numbers for s in self.spec.sequences):
            self._surprises = surprises(dataset, self._behaviors)
        self._oov_rates = {name: self.spec.table(table).oov_rate for table, name in lookups}

    def collate(self, window: Window, chosen: np.ndarray, rng: np.random.Generator | None = None) -> Batch:
        """The batch of the window's rows `chosen` (B,). `rng` (training only) drives the OOV replacement."""
        apart, context = _contexts(window, chosen)
        spans = {
            s.name: self._histories[s.name].last(window.history_row[apart], window.history_end[apart], s.length)
            for s in self.spec.sequences
        }
        behaviour_items = [np.asarray(self._behaviors.item[span.positions]) for span in spans.values()]
        items, index = self._distinct(np.concatenate([window.item[chosen], *behaviour_items]), self._items)
        values: dict[str, np.ndarray] = {}
        bags: dict[str, np.ndarray] = {}
        for feature in self.spec.features:
            if not isinstance(feature, IdFeature | BucketFeature):
                continue
            if is_item(feature):
                codes, at = self.samples.item_codes[feature.name], items
            elif feature.name in self.samples.user_codes:
                codes, at = self.samples.user_codes[feature.name], window.user[chosen]
            else:
                codes, at = window.codes[feature.name], chosen
            taken = codes.take(at)
            values[feature.name] = taken.values
            if taken.offsets is not None:
                bags[feature.name] = np.diff(taken.offsets)
        sequences, start = {}, len(chosen)
        for sequence in self.spec.sequences:
            span = spans[sequence.name]
            stop = start + len(span.positions)
            ts = window.ts[apart]
            side = self._side(sequence, span.positions, span.lengths, ts, values)
            own = [n for n in sequence.numbers if not n.startswith(SAME)]
            numbers = {n: self._side_values(n, span.positions, span.lengths, ts) for n in own}
            found = _sequence(span.lengths, index[start:stop], side, numbers, context)
            for number in sequence.numbers:
                if number.startswith(SAME):
                    codes = _tensor(self.samples.item_codes[number.removeprefix(SAME)].values[items])
                    wanted = codes[index[: len(chosen)]][found.row]
                    found.numbers[number] = ((codes[found.item] == wanted) & (wanted != OOV)).float()
            sequences[sequence.name] = found
            start = stop
        queries, asked = self._searches(window, chosen, apart, context, values)
        of = {v.name: items if v.of == "items" else asked for v in self.spec.vectors}
        vectors = {name: source.rows(of[name]) for name, source in self.samples.vectors.items()}
        for coded in (v for v in self.spec.vectors if v.codes):
            codes = self.samples.codes[coded.name].of(vectors[coded.name])
            values |= dict(zip(code_names(coded), codes.T, strict=True))
        if rng is not None:
            self._drop(values, rng)
        return Batch(
            row=_tensor(window.row[chosen]),
            label=_tensor(window.label[chosen]),
            target=_tensor(index[: len(chosen)]),
            items=_tensor(items),
            ids={dim: self._keyed(keys, values) for dim, keys in self._keys.items()},
            bags={name: _tensor(lengths) for name, lengths in bags.items()},
            dense=_tensor(window.dense[chosen]),
            sequences=sequences,
            vectors={name: _tensor(rows) for name, rows in vectors.items()},
            queries=queries,
            context=None if context is None else _tensor(context),
        )

    def _searches(
        self,
        window: Window,
        chosen: np.ndarray,
        apart: np.ndarray,
        context: np.ndarray | None,
        values: dict[str, np.ndarray],
    ) -> tuple[QueryBatch | None, np.ndarray]:
        """The searches, and the indices (Q,) of their distinct queries, whose ids go into `values`."""
        if self.samples.asked is None:
            return None, chosen[:0]
        before = window.codes[SEARCHES].take(apart)
        assert before.offsets is not None
        every = np.concatenate([window.codes[SEARCHES_QUERY].values[chosen], before.values]).astype(np.int64)
        asked, index = self._distinct(every, self.samples.asked.queries.none + 1)
        values[SEARCHES_QUERY] = self.samples.query_codes[asked]
        past = _sequence(np.diff(before.offsets), index[len(chosen) :], None, {}, context)
        return QueryBatch(_tensor(index[: len(chosen)]), past), asked

    def _keyed(self, keys: list[str], values: dict[str, np.ndarray]) -> KeyedJaggedTensor:
        lengths = torch.tensor([len(values[key]) for key in keys], dtype=torch.int64)
        joined = np.concatenate([values[key] for key in keys]).astype(np.int64)
        return KeyedJaggedTensor(keys=keys, values=_tensor(joined), lengths=lengths)

    def _side(
        self,
        sequence: Sequence,
        positions: np.ndarray,
        lengths: np.ndarray,
        ts: np.ndarray,
        values: dict[str, np.ndarray],
    ) -> np.ndarray | None:
        """Index (N,) into the distinct combinations of side features, whose ids go into `values`."""
        if not sequence.side:
            return None
        codes = []
        for feature in sequence.side:
            raw = self._side_values(feature.column, positions, lengths, ts)
            codes.append(self.samples.encoder.side_codes(sequence, feature, raw))
        rows = [self.samples.encoder.rows(f.table or side_name(sequence, f)) for f in sequence.side]
        combined = codes[0].astype(np.int64)
        for code, size in zip(codes[1:], rows[1:], strict=True):
            combined = combined * size + code
        if np.prod(rows, dtype=np.float64) <= MAX_COMBINATIONS:
            distinct, index = self._distinct(combined, int(np.prod(rows)))
        else:
            distinct, index = np.unique(combined, return_inverse=True)
        for feature, size in zip(reversed(sequence.side), reversed(rows), strict=True):
            distinct, values[side_name(sequence, feature)] = np.divmod(distinct, size)
        return index

    def _side_values(self, column: str, positions: np.ndarray, lengths: np.ndarray, ts: np.ndarray) -> np.ndarray:
        if column == "action":
            return np.asarray(self._behaviors.action[positions]).astype(np.int64)
        if column == "age":
            return np.repeat(ts, lengths) - self._behaviors.ts[positions]
        if column == "position":
            return np.repeat(np.cumsum(lengths), lengths) - np.arange(len(positions))
        if column == SURPRISE:
            return np.asarray(self._surprises[positions])
        return np.asarray(self._behaviors.side[column][positions])

    def _distinct(self, values: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """(distinct values, index of each among them) in O(len), by a scratch array of `size` that is never cleared."""
        scratch = getattr(self._local, "scratch", None)
        if scratch is None or len(scratch) < size:
            scratch = self._local.scratch = np.zeros(size, np.int64)
        places = np.arange(len(values))
        scratch[values] = places
        distinct = values[scratch[values] == places]
        scratch[distinct] = np.arange(len(distinct))
        return distinct, scratch[values]

    def _drop(self, values: dict[str, np.ndarray], rng: np.random.Generator) -> None:
        """Replace a share of ids by OOV, per table's `oov_rate`."""
        for name, rate in self._oov_rates.items():
            if rate > 0:
                ids = values[name].copy()
                ids[rng.random(len(ids)) < rate] = OOV
                values[name] = ids


def _contexts(window: Window, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows of the window whose histories are encoded, and whose of them each chosen row shares (None: its own)."""
    if window.context is None:
        return chosen, None
    _, first, context = np.unique(window.context[chosen], return_index=True, return_inverse=True)
    return chosen[first], context


def _sequence(
    lengths: np.ndarray,
    item: np.ndarray,
    side: np.ndarray | None,
    numbers: dict[str, np.ndarray],
    context: np.ndarray | None,
) -> SequenceBatch:
    """The behaviours of every row, from those of every context."""
    if context is not None:
        starts = np.cumsum(lengths) - lengths
        lengths = lengths[context]
        pick = ranges(starts[context], lengths)
        item, side = item[pick], None if side is None else side[pick]
        numbers = {name: values[pick] for name, values in numbers.items()}
    row = np.repeat(np.arange(len(lengths)), lengths)
    return SequenceBatch(
        _tensor(lengths),
        _tensor(row),
        _tensor(item),
        None if side is None else _tensor(side),
        {name: _tensor(values.astype(np.float32)) for name, values in numbers.items()},
    )


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
