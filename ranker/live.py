"""A trained ranker on rows that are not on disk: samples of the moment, histories that have grown since."""

import numpy as np
import polars as pl
import torch

from data.errors import InputError
from data.live import LiveDataset
from features.collate import Collator
from features.ranks import Ranks
from features.samples import SampleEncoder
from ranker.build import load_ranker
from ranker.run_folder import RunFolder

BATCH_ROWS = 8192
COUNTS = ("item_impressions", "item_positives", "user_impressions", "user_positives")


class LiveRanker:
    """Scores samples by the very path that training took: fitted encoder, pointers into histories, batches."""

    def __init__(self, run: RunFolder, dataset: LiveDataset, ranks: Ranks) -> None:
        """Raises InputError if the run was trained on another dataset."""
        trained_on = run.meta()["dataset"]["fingerprint"]
        if trained_on != dataset.fingerprint:
            raise InputError(
                f"{run.root}: trained on dataset {trained_on[:12]}, {dataset.root} is {dataset.fingerprint[:12]}"
            )
        self.run, self.dataset, self.device = run, dataset, ranks.device
        self.model, self._samples = load_ranker(run, dataset, ranks)
        self._counts = {name: _train_totals(dataset, name) for name in COUNTS if name in self._samples.read_columns}
        self.refresh()

    def refresh(self) -> None:
        """Take in the behaviours that were added to the dataset."""
        then = self._samples
        self._samples = SampleEncoder(then.encoder, self.dataset, then.vectors, then.items, then.users)
        self._collator = Collator(self._samples)

    def score(self, frame: pl.DataFrame) -> np.ndarray:
        """Click probability (n,) float64 of samples with `item`, `user`, `ts`, `history_end`, `context` (rows that
        share user, time and history have one number) and the sample columns that the recipe reads; the point-in-time
        counts of train rows are added here.

        Raises InputError where a column is missing or a score is not finite.
        """
        totals = [
            pl.Series(name, values[frame[name.split("_")[0]].to_numpy()]) for name, values in self._counts.items()
        ]
        frame = frame.with_columns(*totals, label=pl.lit(0.0), row=pl.int_range(pl.len()))
        missing = [name for name in self._samples.read_columns if name not in frame.columns]
        if missing:
            raise InputError(
                f"{self.run.root}: the recipe reads the sample column {missing[0]!r}, which no row here has"
            )
        window = self._samples.window(frame)
        window.context = frame["context"].to_numpy()
        scores = []
        with torch.no_grad():
            for first in range(0, len(frame), BATCH_ROWS):
                chosen = np.arange(first, min(first + BATCH_ROWS, len(frame)))
                batch = self._collator.collate(window, chosen).to(self.device)
                scores.append(self.model(batch).double().cpu().numpy())
        logits = np.concatenate(scores) if scores else np.empty(0)
        if not np.isfinite(logits).all():
            raise InputError(f"{self.run.root}: the model's score is {logits[~np.isfinite(logits)][0]}")
        return 1 / (1 + np.exp(-logits))


def _train_totals(dataset: LiveDataset, name: str) -> np.ndarray:
    """A point-in-time count of train rows after training has ended, by entity; int32, as in the samples."""
    entity, what = name.split("_")
    if what == "impressions":
        return dataset.train_counts(entity).astype(np.int32)
    positives = dataset.samples("train").filter(pl.col("label") == 1).group_by(entity).len().collect(engine="streaming")
    totals = np.zeros(dataset.meta["counts"][f"{entity}s"], np.int32)
    totals[positives[entity].to_numpy()] = positives["len"].to_numpy()
    return totals
