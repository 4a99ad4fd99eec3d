"""What an exported model holds: versions, what the current one is made of, its agreement, and what should worry."""

import json
from pathlib import Path
from typing import Any

import torch

from data.errors import InputError
from ranker.serving.package import current_version, open_package, version_number
from ranker.serving.runtimes import check_isa


def inspect(root: Path) -> dict[str, Any]:
    """Figures of a model's folder, or of one of its versions.

    Raises InputError if the current version is no package.
    """
    folder = current_version(root)
    package, card = open_package(folder), json.loads((folder / "card.json").read_text())
    found: dict[str, Any] = {
        "name": package.name,
        "version": version_number(folder),
        "versions": sorted(p.name for p in folder.parent.glob("v*") if (p / "package.json").is_file()),
        "hash": package.hash,
        "bytes": sum(package.files.values()),
        "tables": package.tables,
        "dense": package.dense,
        "devices": list(package.devices),
        "vectors": {name: facts.model_dump() for name, facts in package.vectors.items()},
        "inputs": {i.name: f"{i.datatype} {i.shape}" for i in package.signature.inputs},
        "card": card,
    }
    found["warnings"] = _warnings(folder, found, package.cpu)
    return found


def _warnings(folder: Path, found: dict[str, Any], cpu: str) -> list[str]:
    warnings = []
    if found["devices"]:
        try:
            check_isa(cpu)
        except InputError as error:
            warnings.append(str(error))
    for version in found["versions"]:
        if version != folder.name:
            try:
                open_package(folder.parent / version)
            except InputError as error:
                warnings.append(f"not to be rolled back to: {error}")
    warnings += [f"{name} is left out: {reason}" for name, reason in found["card"]["left_out"].items()]
    made = found["card"]["provenance"]["versions"].get("torch")
    if made and made.split("+")[0] != torch.__version__.split("+")[0]:
        warnings.append(f"made with torch {made}; this is {torch.__version__}")
    return warnings


def text(found: dict[str, Any]) -> str:
    """The figures, readable."""
    card, devices = found["card"], ", ".join(found["devices"]) or "nothing"
    lines = [
        f"exported model {found['name']}, version {found['version']} of {', '.join(found['versions'])}",
        f"content {found['hash'][:16]}, {found['bytes']:,} bytes; compiled for {devices}",
        f"tables {found['tables']}: {card['memory']['tables_bytes']:,} bytes "
        f"(float32 {card['memory']['tables_bytes_float32']:,}); computed part {found['dense']}",
        f"data {card['data']['source']} ({card['data']['fingerprint'][:12]}); "
        f"checkpoint {card['provenance']['checkpoint']}",
    ]
    for name, facts in found["vectors"].items():
        kind = "trained" if facts["table"] else "as stored"
        lines.append(f"vectors {name}: {facts['dim']} dimensions of encoder {facts['encoder']}, {kind}")
    for split, m in card["metrics"].items():
        lines.append(f"{split}: " + ", ".join(f"{k} {m[k]:.5f}" for k in ("auc", "gauc", "logloss", "pcoc", "ece")))
    lines += [f"agreement: {line}" for line in card["parity_lines"]]
    lines.append("inputs: " + ", ".join(f"{name} {kind}" for name, kind in found["inputs"].items()))
    lines += [f"  warning: {warning}" for warning in found["warnings"]]
    return "\n".join(lines)
