"""`moon study lift`: the lift of vectors against the share of click utility that only content explains.

Where pictures carry nothing, vectors must win nothing; the lift must rise with the share. Every world is simulated,
prepared, trained on and played; what is there from an earlier call is used again.

The vectors are measured from the photos' pixels (colour, brightness, texture, outline; whitened), not by a trained
encoder: the study asks whether the marketplace and the ranker pass content on, and any honest vectors answer that.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import yaml
from matplotlib.figure import Figure
from pydantic import Field
from scipy import stats

import moon
from data.config import Config, load_config
from data.dataset import Dataset
from data.errors import InputError
from data.files import write_json, write_text
from data.images import TarImages
from data.marketplace.config import Market
from data.marketplace.photographed import SIDE, look_vectors, measure, read_photo
from data.marketplace.simulate import simulate
from data.prepare import prepare
from data.sources.tabular import Tabular
from experiments.grid import Cell, Grid
from experiments.page import Table, cell, page, svg
from features.store import Store
from features.store_writer import StoreWriter
from ranker.config import Recipe

CONFIGS = Path(__file__).parents[1] / "configs"
ID_ONLY, CONTENT = "marketplace_din", ("marketplace_simtier", "marketplace_cube")
DIM = 16
SLICES = ("all", "new_items")


class SharesConfig(Config):
    """The study."""

    shares: tuple[float, ...] = Field((0.0, 0.15, 0.3, 0.45, 0.6), min_length=2, description="content shares")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="worlds; each is trained with its own seed")
    days: int = Field(3, ge=1, description="days played after the logs")
    world: dict[str, Any] = Field(default_factory=dict, description="further fields of the market")


def main(argv: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser("moon study lift", description="The lift of vectors against the content share.")
    parser.add_argument("config", type=Path, help="the study (YAML)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the worlds and of the report")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help="change a field of the study")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    args = parser.parse_args(argv)
    config = load_config(args.config, SharesConfig, args.set)
    worlds = {(share, seed): _world(config, share, seed, args.out) for seed in config.seeds for share in config.shares}
    found = gather(config, worlds)
    write_json(args.out / "shares.json", found)
    write_text(args.out / "shares.md", "\n\n".join(table.markdown() for table in tables(found)) + "\n")
    body = svg(_plot(found)) + "".join(table.html() for table in tables(found))
    write_text(args.out / "shares.html", page("Lift against the content share", body))
    print((args.out / "shares.md").read_text())
    if args.json:
        write_json(args.json, found)
    return 0


def _world(config: SharesConfig, share: float, seed: int, out: Path) -> dict[str, Any]:
    """The figures of one world's test."""
    root = out / f"seed-{seed}" / f"share-{share:g}"
    result = root / "lift" / "lift.json"
    if result.is_file():
        return json.loads(result.read_text())
    fields = {"later_days": config.days} | config.world | {"seed": seed, "content_share": share}
    logs, data, store = root / "logs", root / "data", root / "store"
    if not logs.is_dir():
        simulate(Market.model_validate(fields), logs)
    if not (data / "dataset.json").is_file():
        prepare(Tabular(logs, logs / "columns.yaml"), data)
    pixel_store(Dataset(data), store)
    cells = []
    for name in (ID_ONLY, *CONTENT):
        recipe = load_config(CONFIGS / f"{name}.yaml", Recipe, [f"seed={seed}", "train.threads=1"])
        cells.append(Cell(recipe, data, {v.name: store for v in recipe.features.vectors}))
    grid = Grid(root / "runs", cells)
    for outcome in grid.run():
        if outcome.error:
            raise InputError(f"{outcome.run.root}: {outcome.error}")
    arms = {cell.recipe.name.removeprefix("marketplace_"): {"run": str(grid.folder(cell).root)} for cell in cells}
    test = {"logs": str(logs), "data": str(data), "arms": arms, "control": "din", "days": config.days, "aa_replays": 0}
    write_text(root / "lift.yaml", yaml.safe_dump(test))
    status = moon.main(["lift", str(root / "lift.yaml"), "--out", str(root / "lift")])
    if status:
        raise RuntimeError(f"{root}: moon lift ended with status {status}")
    return json.loads(result.read_text())


def pixel_store(dataset: Dataset, root: Path) -> None:
    """A store of what the items' photos measure, if there is none yet."""
    if root.is_dir() and any(root.glob("v*")):
        Store(root)
        return
    items = dataset.items().select("image_key", "category").collect()
    (spec,) = (s for s in dataset.meta["images"] if s["role"] == "item")
    tar = TarImages(Path(spec["path"]))
    measured = np.stack([measure(read_photo(tar, key, SIDE)) for key in items["image_key"]])
    category = items["category"].rank("dense").to_numpy()
    with StoreWriter(
        root, len(items), DIM, encoder="pixel-measures", dataset_fingerprint=dataset.fingerprint
    ) as writer:
        writer.put(np.arange(len(items)), look_vectors(measured, category, DIM))
        writer.publish()


def gather(config: SharesConfig, worlds: dict[tuple[float, int], dict[str, Any]]) -> dict[str, Any]:
    """Lifts over id-only by share, arm and slice: by world, and their mean with a t interval over the worlds."""
    found: dict[str, Any] = {"shares": list(config.shares), "seeds": list(config.seeds), "arms": {}}
    for name in (n.removeprefix("marketplace_") for n in CONTENT):
        rows = []
        for share in config.shares:
            facts = [worlds[share, seed]["arms"][name] for seed in config.seeds]
            row: dict[str, Any] = {"share": share}
            for part in SLICES:
                row[part] = _mean([f["slices"][part]["true_ctr"]["lift"]["value"] for f in facts])
            row["headroom"] = _mean([f["metrics"]["true_ctr"]["headroom"]["value"] for f in facts])
            row["worlds"] = [f["metrics"]["true_ctr"]["lift"] for f in facts]
            rows.append(row)
        found["arms"][name] = rows
    return found


def _mean(values: list[float]) -> dict[str, float | None]:
    numbers = np.array(values, np.float64)
    if len(numbers) < 2:
        return {"value": float(numbers[0]), "low": None, "high": None}
    reach = float(stats.t.ppf(0.975, len(numbers) - 1) * numbers.std(ddof=1) / np.sqrt(len(numbers)))
    return {"value": float(numbers.mean()), "low": float(numbers.mean() - reach), "high": float(numbers.mean() + reach)}


def tables(found: dict[str, Any]) -> list[Table]:
    """One table an arm."""
    worlds = len(found["seeds"])
    head = ["content share", "lift of true CTR", "on new items", "headroom captured", *map(str, found["seeds"])]
    note = (
        f"Over id-only DIN; mean of {worlds} world(s) with a t interval, then each world with its bootstrap interval."
    )
    return [
        Table(
            name,
            note,
            head,
            [
                [
                    f"{row['share']:g}",
                    *(cell(row[part]) for part in SLICES),
                    cell(row["headroom"], "{:.0%}"),
                    *(cell(one) for one in row["worlds"]),
                ]
                for row in rows
            ],
        )
        for name, rows in found["arms"].items()
    ]


def _plot(found: dict[str, Any]) -> Figure:
    figure, axes = plt.subplots(1, len(SLICES), figsize=(10, 3.4))
    for axis, part in zip(axes, SLICES, strict=True):
        for place, (name, rows) in enumerate(found["arms"].items()):
            share = [row["share"] for row in rows]
            axis.plot(share, [100 * row[part]["value"] for row in rows], "o-", color=f"C{place}", label=name)
            if rows[0][part]["low"] is not None:
                low, high = ([100 * row[part][k] for row in rows] for k in ("low", "high"))
                axis.fill_between(share, low, high, alpha=0.15, color=f"C{place}")
        axis.axhline(0, color="#999", linewidth=0.8)
        axis.set_title(f"{part}: true-CTR lift over id-only, %", fontsize=10)
        axis.set_xlabel("content share")
    axes[0].legend(fontsize=8)
    return figure
