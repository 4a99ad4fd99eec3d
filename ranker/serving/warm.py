"""The largest batch that a server may form, scored before its first request: what memory it takes is taken then."""

from dataclasses import replace

import numpy as np
import polars as pl

from ranker.serving.model import Model
from ranker.serving.requests import Requests, requests_of


def score_largest(model: Model, candidates: int) -> None:
    """Score one request of `candidates` with histories as long as the model reads; its numbers are of no interest."""
    pinned = model.pinned()
    batch, _ = model.requests.encode(largest_request(model, candidates), pinned)
    model.logits(batch, pinned)


def largest_request(model: Model, candidates: int) -> Requests:
    """The example with the longest history, drawn out."""
    examples = pl.read_parquet(model.folder / "examples" / "requests.parquet")
    requests = requests_of(model.package.signature, examples)
    longest = int(requests.behaviours.argmax())
    one = requests_of(model.package.signature, examples[longest : longest + 1])
    length = max((s.length for s in model.encoder.spec.sequences), default=0) if one.behaviours[0] else 0
    context = {name: pl.concat([values] * candidates) for name, values in one.context.items()}
    return replace(
        one,
        candidates=np.array([candidates], np.int64),
        behaviours=np.array([length], np.int64),
        item=np.resize(requests.item, candidates),
        context=context,
        history={name: np.resize(values, length) for name, values in one.history.items()},
    )
