"""Where the figures come from: runs, data, vectors, packages, versions, commits and configurations."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.dataset import Dataset
from experiments.page import Folded, Part, Section, Table
from experiments.report.sources import Sources
from features.store import Store
from ranker.run_folder import RunFolder


def section(sources: Sources, runs: Sequence[RunFolder], datasets: Sequence[Dataset]) -> Section:
    """Every source with what made it."""
    parts: list[Part] = []
    if runs:
        parts.append(_runs(runs))
    if datasets:
        parts.append(_datasets(datasets))
    if sources.stores:
        rows = []
        for path in sources.stores:
            meta = Store(path).current.meta
            rows.append([path.name, meta["encoder"], meta["fingerprint"][:16], str(meta["dataset_fingerprint"])[:16]])
        parts.append(Table("Stores", "", ["store", "encoder", "fingerprint", "made for dataset"], rows))
    files = [[kind, path.name, path.parent.name] for kind, found in sources.found.items() for path, _ in found]
    if files:
        parts.append(Table("Figures read from files", "", ["kind", "file", "folder"], files))
    for path, found in sources.figures("study"):
        rows = [[name, str(value)] for name, value in found["facts"].items()]
        parts.append(Table(f"Study {found['study']}, {path.parent.name}", "", ["what", ""], rows))
    for run in runs:
        parts.append(Folded(f"Configuration of {run.root.name}", (run.root / "config.yaml").read_text()))
    for path in sources.encoder_runs:
        parts.append(Folded(f"Configuration of {path.name}", (path / "config.yaml").read_text()))
    return Section("provenance", "Provenance", tuple(parts))


def _runs(runs: Sequence[RunFolder]) -> Table:
    rows = []
    for run in runs:
        meta = run.meta()
        versions = ", ".join(f"{name} {number}" for name, number in meta["versions"].items())
        stores = ", ".join(f"{name}: {facts['fingerprint'][:12]}" for name, facts in meta.get("stores", {}).items())
        state = "finished" if meta.get("finished") else "not finished"
        data = f"{meta['dataset']['source']} {meta['dataset']['fingerprint'][:12]}"
        commit = _commit(meta["commit"])
        rows.append([run.root.name, meta["name"], str(meta["seed"]), state, data, stores or "none", commit, versions])
    head = ["run", "recipe", "seed", "state", "dataset", "vectors", "commit", "versions"]
    return Table("Runs", "", head, rows)


def _commit(commit: str | None) -> str:
    if commit is None:
        return "–"
    name, plus, changes = commit.partition("+")
    return name[:10] + (f" + {changes}" if plus else "")


def _datasets(datasets: Sequence[Dataset]) -> Table:
    rows = []
    for dataset in datasets:
        counts: dict[str, Any] = dataset.meta["counts"]
        numbers = [f"{counts[k]:,}" for k in ("items", "users", "behaviors", "train", "valid", "test")]
        rows.append([dataset.meta["source"], dataset.fingerprint[:16], *numbers])
    head = ["source", "fingerprint", "items", "users", "behaviours", "train", "valid", "test"]
    return Table("Datasets", "", head, rows)


def exports_section(found: Sequence[tuple[Path, dict[str, Any]]]) -> Section:
    """Exported packages."""
    rows = []
    for path, card in found:
        test = card["metrics"].get("test") or card["metrics"].get("valid") or {}
        figures = [f"{test[m]:.4f}" if m in test else "–" for m in ("auc", "gauc", "pcoc")]
        memory = f"{card['memory']['tables_bytes'] / 2**20:,.1f}"
        rows.append(
            [path.parent.name, card["name"], card["hash"][:12], *figures, memory, " ".join(card["parity_lines"])]
        )
    head = ["package", "recipe", "hash", "AUC", "GAUC", "PCOC", "tables, MiB", "agreement with the trained model"]
    return Section("exports", "Exported packages", (Table("Packages", "", head, rows),))
