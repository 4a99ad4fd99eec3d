"""The model card: what a package is, what it was made of and how good it is."""

from pathlib import Path
from typing import Any

from data.dataset import Dataset
from data.files import write_json, write_text
from data.host import git_commit
from ranker.run_folder import RunFolder
from ranker.serving.package import Package

FIGURES = ("auc", "gauc", "logloss", "ne", "pcoc", "ece")


def card_facts(run: RunFolder, dataset: Dataset, package: Package, found: dict[str, Any]) -> dict[str, Any]:
    """Everything the card says; `found`: parity, tables, memory, formats of this export."""
    meta = run.meta()
    return {
        "name": package.name,
        "hash": package.hash,
        "data": {
            "source": dataset.meta["source"],
            "fingerprint": dataset.fingerprint,
            "counts": dataset.meta["counts"],
            "split": dataset.meta.get("split"),
        },
        "metrics": {split: _figures(run, split) for split in ("valid", "test") if run.metrics(split).is_file()},
        "provenance": {
            "seed": meta["seed"],
            "commit": meta["commit"],
            "versions": meta["versions"],
            "world_size": meta["world_size"],
            "checkpoint": (run.checkpoints / "best").resolve().name,
            "stores": meta.get("stores", {}),
            "exporter_commit": git_commit(),
        },
        **found,
    }


def write_card(folder: Path, facts: dict[str, Any], package: Package) -> None:
    """card.json, and card.md for people."""
    write_json(folder / "card.json", facts)
    write_text(folder / "card.md", "\n".join(_lines(facts, package)) + "\n")


def _figures(run: RunFolder, split: str) -> dict[str, Any]:
    import json

    found = json.loads(run.metrics(split).read_text())
    kept = {name: found[name] for name in (*FIGURES, "rows", "users", "gauc_rows_share")}
    return kept | {"slices": found["slices"]}


def _lines(facts: dict[str, Any], package: Package) -> list[str]:
    data, made = facts["data"], facts["provenance"]
    counts = ", ".join(f"{name} {value:,}" for name, value in data["counts"].items() if isinstance(value, int))
    lines = [
        f"# {facts['name']}",
        "",
        f"Click probability of candidate items for one user. Content sha256 `{facts['hash']}`.",
        "",
        f"- data: {data['source']}, fingerprint `{data['fingerprint'][:16]}`; {counts}",
        f"- trained at commit `{made['commit']}`, seed {made['seed']}, {made['world_size']} rank(s)",
        f"- checkpoint {made['checkpoint']}",
        f"- versions: {', '.join(f'{name} {value}' for name, value in made['versions'].items())}",
        f"- tables {package.tables}, {facts['memory']['tables_bytes']:,} bytes "
        f"(float32: {facts['memory']['tables_bytes_float32']:,}); computed part {package.dense}",
        "",
        "## Metrics",
        "",
        "| split | rows | " + " | ".join(FIGURES) + " |",
        "|---|---|" + "---|" * len(FIGURES),
    ]
    for split, found in facts["metrics"].items():
        lines.append(f"| {split} | {found['rows']:,} | " + " | ".join(f"{found[name]:.4f}" for name in FIGURES) + " |")
    for split, found in facts["metrics"].items():
        lines += ["", f"### Slices of {split}", "", "| slice | rows | auc | gauc |", "|---|---|---|---|"]
        for name, part in found["slices"].items():
            shown = [f"{part[m]:.4f}" if part.get(m) is not None else "-" for m in ("auc", "gauc")]
            lines.append(f"| {name} | {part['rows']:,} | {' | '.join(shown)} |")
    lines += ["", "## Agreement with the trained model", ""]
    lines += [f"- {line}" for line in facts["parity_lines"]]
    served = facts["served_as_requests"]
    lines.append(
        f"- {served['rows']} recorded rows sent as requests (raw ids, histories): "
        f"largest difference {served['largest_difference']:.1e}"
    )
    lines += [f"- {name}: {reason}" for name, reason in facts["left_out"].items()]
    lines += ["", "## Inputs", "", "| name | type | shape | meaning |", "|---|---|---|---|"]
    lines += [f"| `{i.name}` | {i.datatype} | {i.shape} | {i.meaning} |" for i in package.signature.inputs]
    lines += ["", "Output `score`, FP32, [C]: the click probability of each candidate. `examples/` has requests and", 
              "their scores."]  # fmt: skip
    return lines
