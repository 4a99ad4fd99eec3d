"""A package, loaded: requests in, click probabilities out."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data.errors import InputError
from features.batch import Batch
from features.encoder import FeatureEncoder
from ranker.serving.catalogue import Catalogue
from ranker.serving.dense_inputs import flat_inputs
from ranker.serving.encode import RequestEncoder, Unknown
from ranker.serving.host_tables import HostTable, HostTables
from ranker.serving.package import current_version, open_package, version_number
from ranker.serving.requests import Requests
from ranker.serving.runtimes import Runtime, check_isa, load_runtime
from ranker.serving.vectors import Pinned, ServedVectors


@dataclass(frozen=True)
class Scores:
    """Answers. probability: (B,) float64 in the order of the candidates. vectors: versions of the stores by name."""

    probability: np.ndarray
    unknown: Unknown
    vectors: dict[str, int]


class Model:
    """One version of one package. Look-ups are in host memory, memory-mapped; the computed part is on `device`."""

    def __init__(
        self,
        root: Path,
        runtime: Runtime = "aoti",
        device: torch.device | None = None,
        runners: int = 1,
    ) -> None:
        """`root`: a version's folder, or a folder with `current`. `runners`: threads that may score at the same time.

        Raises InputError if the package is damaged, or not made for this machine.
        """
        self.folder = current_version(root)
        self.package = open_package(self.folder)
        self.version = version_number(self.folder)
        if runtime == "aoti":
            check_isa(self.package.cpu)
        self.encoder = FeatureEncoder.load(self.folder / "encoder")
        items, users = (Catalogue(self.encoder, kind, self.folder / f"{kind}s") for kind in ("item", "user"))
        self.items, self.users = items, users
        self.requests = RequestEncoder(self.encoder, self.package.signature, items, users)
        self.tables = HostTables(self.folder / "tables", self.encoder.spec)
        self.vectors = {name: self._vectors(name, self.folder / "stores" / name) for name in self.package.vectors}
        self._run = load_runtime(self.folder, runtime, device or torch.device("cpu"), runners)

    def score(self, requests: Requests) -> Scores:
        """Click probabilities of all candidates of all requests.

        Raises InputError for a score that is not finite.
        """
        pinned = self.pinned()
        batch, unknown = self.requests.encode(requests, pinned)
        versions = {name: pin.version.number for name, pin in pinned.items()}
        return Scores(probability(self.logits(batch, pinned)), unknown, versions)

    def pinned(self) -> dict[str, Pinned]:
        """The versions of the stores as of now, by name of the vectors."""
        return {name: vectors.pinned for name, vectors in self.vectors.items()}

    def logits(self, batch: Batch, pinned: dict[str, Pinned]) -> np.ndarray:
        """Logits (B,) float32 of a batch that was encoded with these versions of the stores."""
        rows = self.tables.rows(batch.ids)
        rows |= {name: self.vectors[name].rows(ids, pinned[name]) for name, ids in batch.vectors.items()}
        return self._run(flat_inputs(rows, batch)).numpy()

    def follow(self, stores: dict[str, Path]) -> None:
        """Read vectors, by name, from stores that may move on, in the place of the package's own.

        Raises InputError for a name that the model does not read, or a store that does not fit it.
        """
        for name, root in stores.items():
            if name not in self.vectors:
                known = f"it reads {', '.join(self.vectors)}" if self.vectors else "it reads none"
                raise InputError(f"--store {name}={root}: the model has no such vectors; {known}")
            self.vectors[name] = self._vectors(name, root)

    def refresh_vectors(self) -> list[str]:
        """Follow the stores to their newest versions; names of those that moved."""
        return [name for name, vectors in self.vectors.items() if vectors.refresh()]

    def _vectors(self, name: str, root: Path) -> ServedVectors:
        facts = self.package.vectors[name]
        table = HostTable(self.folder / "tables", name) if facts.table else None
        own = self.folder / "stores" / name
        return ServedVectors(name, facts, own, root, table, self.encoder.codebooks.get(name))


def probability(logits: np.ndarray) -> np.ndarray:
    """Click probability, float64, as ranker.evaluate gives it.

    Raises InputError for a logit that is not finite.
    """
    bad = np.flatnonzero(~np.isfinite(logits))
    if len(bad):
        raise InputError(f"candidate {bad[0]}: the model's score is {logits[bad[0]]}")
    return 1 / (1 + np.exp(-logits.astype(np.float64)))
