"""What an encoder's run or a saved encoder holds, for `moon inspect`; reads the files alone, without torch."""

import json
from pathlib import Path
from typing import Any

import yaml


def is_run(root: Path) -> bool:
    """Whether a folder with a config.yaml is the run of an encoder (a ranker's run has no facts of a start)."""
    meta = root / "meta.json"
    return meta.is_file() and "facts" in json.loads(meta.read_text())


def inspect(root: Path) -> dict[str, Any]:
    """Figures of a run directory, or of a folder that a run (or `save_encoder`) wrote."""
    saved = root if (root / "encoder.json").is_file() else root / "encoder"
    encoder = json.loads((saved / "encoder.json").read_text()) if (saved / "encoder.json").is_file() else None
    found: dict[str, Any] = {"encoder": encoder and _encoder(encoder), "warnings": []}
    if saved == root:
        return found
    config, meta = yaml.safe_load((root / "config.yaml").read_text()), json.loads((root / "meta.json").read_text())
    log = root / "metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    steps, evaluations = [x for x in lines if "loss" in x], [x for x in lines if "best" in x]
    figures = root / "figures.json"
    found |= {
        "name": config["name"],
        "stage": f"posttrain-{config['stage']}" if "stage" in config else "pretrain",
        "seed": config["seed"],
        "meta": meta,
        "last_step": steps[-1] if steps else None,
        "evaluations": evaluations,
        "checkpoints": sorted(p.name for p in (root / "checkpoints").glob("*")),
        "figures": json.loads(figures.read_text()) if figures.is_file() else None,
    }
    found["warnings"] = _warnings(found)
    return found


def _encoder(saved: dict[str, Any]) -> dict[str, Any]:
    """What encoder.json says, without the recipe that made it."""
    facts = {name: value for name, value in saved["facts"].items() if name in ("dataset", "steps", "valid")}
    return {name: saved[name] for name in ("name", "stage", "dim", "matryoshka", "fingerprint")} | {
        "kind": saved["config"]["kind"],
        "held_out": saved["facts"].get("config", {}).get("held_out"),
        "facts": facts,
    }


def _warnings(found: dict[str, Any]) -> list[str]:
    warnings = []
    if found["figures"] is None:
        warnings.append("the run is not finished; continue it with the same command and --resume")
    best = [e["step"] for e in found["evaluations"] if e["best"]]
    if found["figures"] is not None and best and best[-1] == 0:
        warnings.append("no step was better on valid than the start: the encoder is what the run began with")
    return warnings


def text(found: dict[str, Any]) -> str:
    """The figures, readable."""
    lines = []
    if "name" in found:
        meta = found["meta"]
        lines.append(
            f"encoder run {found['name']} ({found['stage']}), seed {found['seed']}, on {meta['device']}, "
            f"{meta['world_size']} rank(s); torch {meta['torch']}"
        )
        lines.append(f"dataset {meta['facts']['dataset'][:12]}; began with {meta['facts'].get('init', 'nothing'):.100}")
        lines += [_line(e) for e in found["evaluations"]]
        if found["last_step"]:
            lines.append("last step: " + _numbers(found["last_step"]))
        lines.append("checkpoints: " + (", ".join(found["checkpoints"]) or "none"))
    if encoder := found["encoder"]:
        prefixes = ", ".join(map(str, encoder["matryoshka"])) or "none"
        lines.append(
            f"encoder {encoder['name']} ({encoder['stage']}): {encoder['kind']}, {encoder['dim']} dims, prefixes "
            f"{prefixes}; {encoder['fingerprint'][:12]}"
        )
        rule = encoder["held_out"]
        if rule and (rule["valid"] or rule["test"]):
            lines.append(f"  holds out by {rule['key']}: valid {rule['valid']:.0%}, test {rule['test']:.0%}")
    return "\n".join([*lines, *(f"  warning: {warning}" for warning in found["warnings"])])


def _line(evaluation: dict[str, Any]) -> str:
    rest = {name: value for name, value in evaluation.items() if name not in ("step", "epoch", "best")}
    return f"  valid after step {evaluation['step']:,}: {_numbers(rest)}{' (best)' if evaluation['best'] else ''}"


def _numbers(facts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.5g}" for name, value in facts.items() if isinstance(value, int | float))
