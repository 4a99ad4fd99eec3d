"""The gate: a package is published only if it gives the trained model's scores."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from data.dataset import Dataset
from data.errors import InputError
from features.loader import Loader
from features.samples import SampleEncoder
from ranker import metrics
from ranker.evaluate import SCORING_BATCH, score_batches
from ranker.exporting.recorded import recorded_requests
from ranker.serving.model import Model, probability
from ranker.serving.requests import requests_of
from ranker.simtier import edges_moved

EXACT = 1e-5
AUC = 1e-3
ROUNDING = 5e-7  # of a cosine
REQUEST_ROWS = 512


@dataclass(frozen=True)
class Comparison:
    """Scores of a package beside eager ones, over recorded rows of one split.

    Attributes:
        runtime: which format was run. rows: compared. largest: largest difference of two probabilities.
        on_edges: rows in which a cosine lies on the edge of a tier, and rounding put it on the other side.
        auc_eager, auc_package: over these rows. rule, limit: what had to hold. passed: whether it did.
    """

    runtime: str
    rows: int
    largest: float
    on_edges: int
    auc_eager: float
    auc_package: float
    rule: str
    limit: float
    passed: bool

    def line(self) -> str:
        """In words."""
        verdict = "ok" if self.passed else "REFUSED"
        edges = f" ({self.on_edges} with a cosine on the edge of a tier)" if self.on_edges else ""
        return (
            f"{self.runtime}: {self.rows:,} rows{edges}, largest difference {self.largest:.1e}, "
            f"AUC {self.auc_package:.6f} (eager {self.auc_eager:.6f}); {self.rule} <= {self.limit:g}: {verdict}"
        )


def eager_scores(model: nn.Module, samples: SampleEncoder, split: str, device: torch.device, rows: int) -> np.ndarray:
    """The trained model's probabilities (n,) of the first `rows` rows of a split (and the rest of their batch)."""
    loader, found, total = Loader(samples, split, SCORING_BATCH), [], 0
    for _, scores in score_batches(model, loader, device):
        found.append(scores)
        total += len(scores)
        if total >= rows:
            break
    return np.concatenate(found)


def scores_beside_edges(
    model: nn.Module, samples: SampleEncoder, split: str, device: torch.device, rows: int
) -> list[np.ndarray]:
    """`eager_scores` with the edges of the tiers (ranker.simtier) moved by rounding, down and up."""
    found = []
    for by in (ROUNDING, -ROUNDING):
        with edges_moved(by):
            found.append(eager_scores(model, samples, split, device, rows))
    return found


def package_scores(model: Model, samples: SampleEncoder, split: str, rows: int) -> np.ndarray:
    """The package's probabilities of the same rows, from the same batches."""
    loader, found, total = Loader(samples, split, SCORING_BATCH), [], 0
    for batch in loader.epoch():
        found.append(probability(model.logits(batch, model.pinned())))
        total += len(batch)
        if total >= rows:
            break
    return np.concatenate(found)


def compare(
    runtime: str,
    label: np.ndarray,
    eager: np.ndarray,
    package: np.ndarray,
    exact: bool,
    beside_edges: Callable[[], Sequence[np.ndarray]],
) -> Comparison:
    """`exact`: float32 throughout, so that every score must agree; else the AUC must (and scores may move).

    `beside_edges`: other eager scores that rows on an edge may have instead; called if some score does not agree.
    """
    on_edges, off = 0, np.flatnonzero(np.abs(eager - package) > EXACT)
    if exact and len(off):
        either = np.stack([eager, *beside_edges()])[:, off]
        nearest = np.abs(either - package[off]).argmin(0)
        eager, on_edges = eager.copy(), int((nearest > 0).sum())
        eager[off] = either[nearest, np.arange(len(off))]
    largest = float(np.abs(eager - package).max())
    before, after = (float(metrics.auc(label, score)) for score in (eager, package))
    rule, limit = ("largest difference of a score", EXACT) if exact else ("difference of AUC", AUC)
    found = largest if exact else abs(before - after)
    return Comparison(runtime, len(label), largest, on_edges, before, after, rule, limit, bool(found <= limit))


def require(comparisons: list[Comparison]) -> None:
    """Raise InputError if one has not passed."""
    for comparison in comparisons:
        if not comparison.passed:
            raise InputError(f"not exported: the package does not give the trained model's scores; {comparison.line()}")


def skew(model: Model, dataset: Dataset, split: str, package: np.ndarray) -> dict[str, Any]:
    """Largest difference between rows scored as requests (raw ids and histories) and from the prepared dataset.

    Raises InputError if it is more than rounding: training and serving would see different features.
    """
    rows = min(REQUEST_ROWS, len(package))
    frame = recorded_requests(dataset, split, model.package.signature, slice(0, rows))
    served = model.score(requests_of(model.package.signature, frame)).probability
    difference = np.abs(served - package[:rows])
    if difference.max() > EXACT:
        row = int(difference.argmax())
        raise InputError(
            f"not exported: {split} row {row} scores {served[row]:.6f} as a request and "
            f"{package[row]:.6f} from the dataset"
        )
    return {"rows": rows, "largest_difference": float(difference.max())}


def facts(comparisons: list[Comparison]) -> list[dict[str, Any]]:
    """For the card."""
    return [asdict(comparison) for comparison in comparisons]
