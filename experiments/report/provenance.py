"""Where the figures come from: runs, data, vectors, packages, versions, commits and configurations."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.dataset import Dataset
from experiments.page import Folded, Part, Section, Table
from experiments.report.sources import Sources, place
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
    files = [[kind, path.name, path.parent.name] for kind in sources.found for path, _ in sources.figures(kind)]
    if files:
        parts.append(Table("Figures read from files", "", ["kind", "file", "folder"], files))
    rows = []
    for path, found in sources.figures("study"):
        facts = found["facts"]
        name = found["settings"]["name"]
        rows.append([name, found["study"], place(path), _commit(facts["commit"]), facts["machine"], facts["versions"]])
    if rows:
        parts.append(Table("Studies", "", ["study", "kind", "from", "commit", "machine", "versions"], rows))
    seeds: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        lines = (run.root / "config.yaml").read_text().splitlines()
        text = "\n".join(line for line in lines if not line.startswith("seed:"))
        seeds.setdefault((run.meta()["name"], text), []).append(str(run.meta()["seed"]))
    for (name, text), mine in seeds.items():
        parts.append(Folded(f"Configuration of {name}, seed{'s' * (len(mine) > 1)} {', '.join(mine)}", text))
    for path in sources.encoder_runs:
        parts.append(Folded(f"Configuration of {path.name}", (path / "config.yaml").read_text()))
    return Section("provenance", "Provenance", tuple(parts))


def _runs(runs: Sequence[RunFolder]) -> Table:
    rows, packages = [], []
    for run in runs:
        meta = run.meta()
        packages.append(", ".join(f"{name} {number}" for name, number in meta["versions"].items()))
        stores = ", ".join(f"{name}: {facts['fingerprint'][:12]}" for name, facts in meta.get("stores", {}).items())
        state = "finished" if meta.get("finished") else "not finished"
        data = f"{meta['dataset']['source']} {meta['dataset']['fingerprint'][:12]}"
        folder, commit = f"{run.root.parent.name}/{run.root.name}", _commit(meta["commit"])
        rows.append([folder, meta["name"], str(meta["seed"]), state, data, stores or "none", commit])
    head = ["run", "recipe", "seed", "state", "dataset", "vectors", "commit"]
    if len(set(packages)) == 1:
        return Table("Runs", f"All with {packages[0]}.", head, rows)
    return Table("Runs", "", [*head, "versions"], [[*row, one] for row, one in zip(rows, packages, strict=True)])


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
