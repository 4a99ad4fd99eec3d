"""The model that is being served: loaded, checked, and replaced while requests go on."""

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import torch

from data.errors import InputError
from ranker.serving.later_items import LaterItems
from ranker.serving.log import log
from ranker.serving.model import Model
from ranker.serving.package import current_version
from ranker.serving.requests import requests_of
from ranker.serving.runtimes import Runtime

TOLERANCE = 1e-3  # of a score: another CPU rounds otherwise, in bfloat16 by this much


@dataclass(frozen=True)
class Source:
    """Where the model comes from.

    Attributes:
        root: the model's folder. stores: to follow, by name of the vectors. items: folder of items that came later.
        runners: threads that may score at the same time.
    """

    root: Path
    runtime: Runtime = "aoti"
    device: str = "cpu"
    stores: dict[str, Path] = field(default_factory=dict)
    items: Path | None = None
    runners: int = 1


class Served:
    """Follows `current` of a model's folder, the stores of its vectors and later items, in a thread of its own.

    A new version is loaded beside the old one, has to give the scores of its own examples, and then takes its place in
    one assignment. One that fails is logged and counted, and the old one stays.
    """

    def __init__(self, source: Source, poll: float) -> None:
        """`poll`: seconds between looks. Raises InputError if the first model does not load."""
        self.source, self.poll = source, poll
        self.model, self._later = _loaded(source)
        self.swaps = self.vector_swaps = self.failed_swaps = 0
        self._refused: Path | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follower", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop following."""
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        torch.set_num_threads(1)
        while not self._stop.wait(self.poll):
            for look in (self._model, self._vectors, self._items):
                try:
                    look()
                except Exception as error:  # whatever is wrong with something new, what was there goes on
                    self.failed_swaps += 1
                    log("swap_failed", error=" ".join(str(error).split()), kept=self.model.version)

    def _model(self) -> None:
        folder = current_version(self.source.root)
        if folder == self.model.folder:
            self._refused = None
        elif folder != self._refused:
            started = time.monotonic()
            self._refused = folder
            model, later = _loaded(self.source)
            before, self.model, self._later, self._refused = self.model.version, model, later, None
            self.swaps += 1
            log("model_swapped", before=before, version=model.version, seconds=round(time.monotonic() - started, 3))

    def _vectors(self) -> None:
        for name in self.model.refresh_vectors():
            self.vector_swaps += 1
            log("vectors_swapped", name=name, version=self.model.pinned()[name].version.number)

    def _items(self) -> None:
        if self._later is not None:
            _learn(self._later)


def _loaded(source: Source) -> tuple[Model, LaterItems | None]:
    """A model that is warm and gives the scores of its package's examples, and what it follows."""
    model = Model(source.root, source.runtime, torch.device(source.device), source.runners)
    requests = pl.read_parquet(model.folder / "examples" / "requests.parquet")
    expected = pl.read_parquet(model.folder / "examples" / "scores.parquet")["score"].to_numpy()
    found = model.score(requests_of(model.package.signature, requests)).probability
    if np.abs(found - expected).max() > TOLERANCE:
        raise InputError(f"{model.folder}: does not give the scores of its own examples on this machine; export again")
    model.follow(source.stores)
    later = LaterItems(source.items, model.items) if source.items else None
    if later is not None:
        _learn(later)
    return model, later


def _learn(later: LaterItems) -> None:
    new, wrong = later.refresh()
    if new:
        log("items_learnt", new=new, known=later.catalogue.size)
    for line in wrong:
        log("items_refused", error=line)
