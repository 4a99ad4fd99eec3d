"""Whether a finished run is the one that a cell of a grid asks for."""

from typing import TYPE_CHECKING, Any

from data.dataset import Dataset
from data.errors import InputError
from features.store import Store
from ranker.run_folder import RunFolder

if TYPE_CHECKING:
    from experiments.grid import Cell


def require_same(run: RunFolder, cell: "Cell") -> None:
    """Raise InputError unless the finished run is of the cell's recipe, dataset, vectors and encoders."""
    meta = run.meta()
    found: dict[str, tuple[Any, Any]] = {
        "recipe": (run.recipe(), cell.recipe),
        "dataset": (meta["dataset"]["fingerprint"], Dataset(cell.data).fingerprint),
        "vectors": (
            {name: facts["fingerprint"] for name, facts in meta.get("stores", {}).items()},
            {name: Store(path).current.meta["fingerprint"] for name, path in cell.stores.items()},
        ),
    }
    if cell.encoders:
        from moon_encoder.checkpoint import encoder_info

        trained = {name: encoder_info(run.root / "encoders" / name) for name in cell.encoders}
        found["encoder"] = (
            {name: info.facts["started_from"] for name, info in trained.items()},
            {name: encoder_info(folder).fingerprint for name, folder in cell.encoders.items()},
        )
    for what, (then, now) in found.items():
        if then != now:
            raise InputError(
                f"{run.root}: a finished run of another {what} than the grid asks for; remove it or use another folder"
            )
