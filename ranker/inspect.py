"""What a run holds: recipe, dataset, curves, checkpoints, figures, and what should worry its owner."""

import json
from pathlib import Path
from typing import Any

from ranker.run_folder import RunFolder


def inspect(root: Path) -> dict[str, Any]:
    """Figures of a run directory."""
    run = RunFolder(root)
    recipe, meta = run.recipe(), run.meta()
    lines = [json.loads(line) for line in run.log.read_text().splitlines()] if run.log.is_file() else []
    steps, evals = [x for x in lines if "loss" in x], [x for x in lines if "valid" in x]
    found: dict[str, Any] = {
        "name": recipe.name,
        "seed": recipe.seed,
        "meta": meta,
        "tables": {name: recipe.features.table(name).dim for name in recipe.features.tables_in_use()},
        "sequences": {s.name: s.length for s in recipe.features.sequences},
        "last_step": steps[-1] if steps else None,
        "evaluations": evals,
        "checkpoints": sorted(p.name for p in run.checkpoints.glob("*")) if run.checkpoints.is_dir() else [],
        "metrics": {s: json.loads(run.metrics(s).read_text()) for s in ("valid", "test") if run.metrics(s).is_file()},
    }
    found["warnings"] = _warnings(found)
    return found


def _warnings(found: dict[str, Any]) -> list[str]:
    warnings = []
    if not found["meta"].get("finished"):
        warnings.append("the run is not finished; continue it with moon train ... --resume")
    if not Path(found["meta"]["dataset"]["path"]).is_dir():
        warnings.append(f"its dataset is not at {found['meta']['dataset']['path']} any more")
    aucs = [e["valid"]["auc"] for e in found["evaluations"]]
    if aucs and aucs[-1] < max(aucs) - 0.005:
        warnings.append(f"valid AUC fell from {max(aucs):.4f} to {aucs[-1]:.4f}: it overfits, train fewer epochs")
    for split, metrics in found["metrics"].items():
        if not 0.9 <= metrics["pcoc"] <= 1.1:
            warnings.append(f"{split} PCOC is {metrics['pcoc']:.3f}: scores are off by more than 10 %")
        if metrics["gauc_rows_share"] < 0.5:
            warnings.append(f"{split} GAUC counts only {metrics['gauc_rows_share']:.0%} of the rows")
    return warnings


def text(found: dict[str, Any]) -> str:
    """The figures, readable."""
    meta = found["meta"]
    versions = ", ".join(f"{name} {v}" for name, v in meta["versions"].items())
    lines = [
        f"run {found['name']}, seed {found['seed']}, on {meta['device']}, {meta['world_size']} rank(s); {versions}"
    ]
    lines.append(
        f"dataset {meta['dataset']['source']} ({meta['dataset']['fingerprint'][:12]}) {meta['dataset']['path']}"
    )
    lines.append("tables: " + ", ".join(f"{name} x{dim}" for name, dim in found["tables"].items()))
    if found["sequences"]:
        lines.append("sequences: " + ", ".join(f"{name} of {length}" for name, length in found["sequences"].items()))
    if found["last_step"]:
        lines.append("last step: " + ", ".join(f"{k} {_short(v)}" for k, v in found["last_step"].items()))
    for e in found["evaluations"]:
        lines.append(f"  valid after step {e['step']:,}: AUC {e['valid']['auc']:.5f}  GAUC {e['valid']['gauc']:.5f}")
    for split, m in found["metrics"].items():
        lines.append(f"{split}: " + ", ".join(f"{k} {m[k]:.5f}" for k in ("auc", "gauc", "logloss", "pcoc", "ece")))
    lines.append("checkpoints: " + (", ".join(found["checkpoints"]) or "none"))
    lines += [f"  warning: {warning}" for warning in found["warnings"]]
    return "\n".join(lines)


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
