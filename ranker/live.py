"""A trained ranker on rows that are not on disk: samples of the moment, histories that have grown since.

It can go on learning from them: one pass over a day's log, from the weights and optimizer state of the day before.
"""

from typing import cast

import numpy as np
import polars as pl
import torch

from data.errors import InputError
from data.live import LiveDataset
from data.queries import query_ids
from features.collate import Collator
from features.queries import Queries
from features.ranks import Ranks
from features.samples import SampleEncoder, Window
from features.spec import SEARCHES
from ranker.build import load_ranker
from ranker.checkpoint import Checkpoints
from ranker.config import Schedule
from ranker.model import Ranker
from ranker.optimizer import Optimizers
from ranker.run_folder import RunFolder
from ranker.train import click_loss

BATCH_ROWS = 8192
COUNTS = ("item_impressions", "item_positives", "user_impressions", "user_positives")


class LiveRanker:
    """Scores samples by the very path that training took: fitted encoder, pointers into histories, batches."""

    def __init__(self, run: RunFolder, dataset: LiveDataset, ranks: Ranks, learns: bool = False) -> None:
        """`learns`: whether `learn` will be called; the optimizers' state is read as well then.

        Raises InputError if the run was trained on another dataset, or cannot go on learning here.
        """
        trained_on = run.meta()["dataset"]["fingerprint"]
        if trained_on != dataset.fingerprint:
            raise InputError(
                f"{run.root}: trained on dataset {trained_on[:12]}, {dataset.root} is {dataset.fingerprint[:12]}"
            )
        self.run, self.dataset, self.device = run, dataset, ranks.device
        self.model, self._samples = load_ranker(run, dataset, ranks)
        self._queries = self._known_queries() if self.reads_searches else None
        self._counts = {name: _train_totals(dataset, name) for name in COUNTS if name in self._samples.read_columns}
        self._optimizers = self._continued(ranks) if learns else None
        self._lessons = 0
        self.refresh()

    def _known_queries(self) -> Queries:
        """The dataset's, and what else the stores have vectors of: what is asked later may be embedded ahead."""
        sources = [source for source in self._samples.vectors.values() if source.spec.of == "queries"]
        ids = pl.concat([query_ids(self.dataset), *(source.version.item_ids for source in sources)]).unique().sort()
        for source in sources:
            source.know(ids, self.dataset)
        return Queries(ids)

    @property
    def reads_searches(self) -> bool:
        """Whether what users searched for before is read."""
        return self._samples.asked is not None

    def _continued(self, ranks: Ranks) -> Optimizers:
        """The optimizers as the checkpoint left them, at their full rates."""
        recipe = self.run.recipe()
        for vectors in recipe.features.vectors:
            if vectors.mode == "end_to_end":
                raise InputError(
                    f"{self.run.root}: vectors {vectors.name!r} are end_to_end; a daily model needs its encoder, which "
                    "an online test does not train; play it without refresh.model"
                )
        train = recipe.train.model_copy(update={"schedule": Schedule()})  # pyright: ignore[reportCallIssue]
        optimizers = Optimizers(self.model, train, 1, cast(Ranker, self.model.module).rates())
        optimizers.allocate()
        encoder = self._samples.encoder
        Checkpoints(self.run.checkpoints, encoder.fingerprint, ranks).load("best", self.model, optimizers.all)
        return optimizers

    def wait(self, items: np.ndarray) -> None:
        """Items (items,) bool that have no vectors yet; see `VectorSource.wait`."""
        for source in self._samples.vectors.values():
            if source.spec.of == "items":
                source.wait(items)
        self.refresh()

    def learn(self, frame: pl.DataFrame) -> float:
        """One pass over a log with `label` (0 or 1) and what `score` takes, in random order; the mean loss on the way.

        Afterwards the log has entered the point-in-time counts; its own rows have those of before.
        """
        assert self._optimizers is not None
        recipe = self.run.recipe()
        window = self._window(frame)
        order = np.random.default_rng([recipe.seed, self._lessons]).permutation(len(frame))
        self._lessons += 1
        total = 0.0
        self.model.train()
        for first in range(0, len(order), recipe.train.batch_size):
            batch = self._collator.collate(window, order[first : first + recipe.train.batch_size]).to(self.device)
            self._optimizers.prepare(0)
            loss = click_loss(self.model(batch), batch.label)
            loss.backward()
            self._optimizers.step()
            total += loss.item() * len(batch)
        self.model.eval()
        for name, values in self._counts.items():
            entity, what = name.split("_")
            weight = None if what == "impressions" else frame["label"].to_numpy()
            values += np.bincount(frame[entity].to_numpy(), weight, len(values)).astype(values.dtype)
        if not np.isfinite(total):
            raise InputError(f"{self.run.root}: the loss of a day's log is {total}; lower the learning rates")
        return total / max(1, len(order))

    def refresh(self) -> None:
        """Take in the behaviours that were added to the dataset."""
        then = self._samples
        self._samples = SampleEncoder(then.encoder, self.dataset, then.vectors, then.items, then.users, self._queries)
        self._collator = Collator(self._samples)

    def score(self, frame: pl.DataFrame) -> np.ndarray:
        """Click probability (n,) float64 of samples with `item`, `user`, `ts`, `history_end`, `context` (rows that
        share user, time and history have one number) and the sample columns that the recipe reads; the point-in-time
        counts of train rows and the users' earlier searches are added here.

        Raises InputError where a column is missing or a score is not finite.
        """
        window = self._window(frame.with_columns(label=pl.lit(0.0)))
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

    def _window(self, frame: pl.DataFrame) -> Window:
        totals = [
            pl.Series(name, values[frame[name.split("_")[0]].to_numpy()]) for name, values in self._counts.items()
        ]
        frame = frame.with_columns(*totals, row=pl.int_range(pl.len()))
        missing = [name for name in self._samples.read_columns if name not in frame.columns]
        if missing:
            raise InputError(
                f"{self.run.root}: the recipe reads the sample column {missing[0]!r}, which no row here has"
            )
        window = self._samples.window(self._with_searches(frame))
        window.context = frame["context"].to_numpy()
        return window

    def _with_searches(self, frame: pl.DataFrame) -> pl.DataFrame:
        """With the column `searches` where the recipe reads earlier searches."""
        if self._samples.asked is None:
            return frame
        moments = frame.select("user", "ts").unique()
        user, ts = (moments[name].to_numpy().astype(np.int64) for name in ("user", "ts"))
        lists = self.dataset.searches.before(user, ts, self._samples.asked.length).alias(SEARCHES)
        return frame.join(moments.with_columns(lists), on=["user", "ts"], how="left", maintain_order="left")


def _train_totals(dataset: LiveDataset, name: str) -> np.ndarray:
    """A point-in-time count of train rows after training has ended, by entity; int32, as in the samples."""
    entity, what = name.split("_")
    if what == "impressions":
        return dataset.train_counts(entity).astype(np.int32)
    positives = dataset.samples("train").filter(pl.col("label") == 1).group_by(entity).len().collect(engine="streaming")
    totals = np.zeros(dataset.meta["counts"][f"{entity}s"], np.int32)
    totals[positives[entity].to_numpy()] = positives["len"].to_numpy()
    return totals
