"""Stores of vectors of one dataset: coverage, geometry, and what stands near what, with pictures."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Dataset
from experiments.charts.intervals import Estimate, intervals
from experiments.page import Card, Exhibit, Part, Prose, Section, Table
from experiments.report.pictures import Pictures
from features.inspect import inspect, neighbours
from features.item_rows import UNKNOWN, ItemRows
from features.store import Store, Version

QUERIES, NEAR, JUDGED, DEPTH = 5, 8, 400, 10


@dataclass(frozen=True)
class Stored:
    """A store's newest version. item_rows: (items,) row of every item of the dataset, UNKNOWN where there is none."""

    name: str
    version: Version
    item_rows: np.ndarray

    @classmethod
    def of(cls, path: Path, name: str, dataset: Dataset) -> "Stored":
        """Open a store for a dataset's items, which are found by id if it was made for another preparation."""
        version = Store(path).current
        if version.meta["dataset_fingerprint"] == dataset.fingerprint:
            rows = np.arange(dataset.meta["counts"]["items"])
        else:
            rows = ItemRows(version).find(dataset.items().select("item_id").collect()["item_id"])
        known = (rows != UNKNOWN) & (rows < len(version.present))
        known[known] = version.present[rows[known]]
        return cls(name, version, np.where(known, rows, UNKNOWN))

    def unit(self, items: np.ndarray) -> np.ndarray:
        """(n, dim) vectors of length 1 of items (n,); 0 where there is none."""
        rows = self.item_rows[items]
        found = self.version.vectors(np.maximum(rows, 0))[0]
        found[rows == UNKNOWN] = 0
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


def opened(paths: Sequence[Path], dataset: Dataset) -> list[Stored]:
    """The stores that have vectors of a dataset's items; of one name, they are told apart by their folders."""
    mine = [path for path in paths if belongs(path, dataset)]
    names = Counter(path.name for path in mine)
    return [Stored.of(p, p.name if names[p.name] == 1 else f"{p.parent.name}/{p.name}", dataset) for p in mine]


def belongs(path: Path, dataset: Dataset) -> bool:
    """Whether a store has vectors of a dataset's items."""
    version = Store(path).current
    if version.meta["dataset_fingerprint"] == dataset.fingerprint:
        return True
    ids = dataset.items().select("item_id").collect()["item_id"]
    if version.meta["ids"] is None or (version.meta["ids"] == "whole") != ids.dtype.is_integer():
        return False
    return bool((ItemRows(version).find(ids) != UNKNOWN).any())


def section(stores: Sequence[Stored], dataset: Dataset, pictures: Pictures | None) -> Section:
    """The stores' part of a page."""
    parts: list[Part] = [_table(stores, dataset)]
    same = _category_matches(stores, pictures) if pictures else []
    cards = []
    if same:
        chance = same.pop()
        note = (
            f"Of the {DEPTH} nearest items of {JUDGED} drawn ones; intervals over those. A sign of order, no proof "
            "of use."
        )
        title = "Neighbours of the same category"
        parts.append(intervals("category", title, "share", [*same, chance], note, "{:.0%}", full=True))
        best = max(same, key=lambda e: e.value)
        cards.append(
            Card(f"neighbours of the same category, {best.line}", f"{best.value:.0%}", f"{chance.value:.0%} by chance")
        )
    if pictures:
        parts.append(_gallery(stores, pictures))
    return Section("vectors", "Vectors", tuple(parts), cards=tuple(cards))


def _table(stores: Sequence[Stored], dataset: Dataset) -> Table:
    rows = []
    for stored in stores:
        found, meta = inspect(stored.version.folder.parent), stored.version.meta
        whole: dict[str, Any] = found["prefixes"].get(meta["dim"], {})
        covered = float((stored.item_rows != UNKNOWN).mean())
        prefixes = ", ".join(map(str, found["prefixes"]))
        geometry = [
            f"{whole[k]:{form}}" if whole else "–" for k, form in (("mean_cosine", ".3f"), ("effective_rank", ".1f"))
        ]
        made = f"{meta['encoder']}, v{stored.version.number}"
        rows.append([stored.name, made, f"{meta['dim']} x {meta['dtype']}", prefixes, f"{covered:.1%}", *geometry])
    head = ["store", "encoder", "numbers", "prefixes", "coverage", "mean cosine", "effective rank"]
    note = (
        "*Mean cosine* of pairs of different items: near 1 all vectors are alike. *Effective rank*: exp of the entropy "
        "of the singular values."
    )
    return Table(f"Stores of {dataset.meta['source']}", note, head, rows)


def _category_matches(stores: Sequence[Stored], pictures: Pictures) -> list[Estimate]:
    """Share of neighbours with the category of their item, by store, and last what chance gives; empty without."""
    category = pictures.contents.category
    if len(pictures.contents.category_names) < 2:
        return []
    found = []
    for stored in stores:
        items = np.flatnonzero((stored.item_rows != UNKNOWN) & (category >= 0))
        drawn = np.sort(np.random.default_rng(0).permutation(items)[:JUDGED])
        of_row = {int(row): int(item) for item, row in enumerate(stored.item_rows) if row != UNKNOWN}
        shares = []
        for item, near in zip(drawn, neighbours(stored.version, stored.item_rows[drawn], DEPTH), strict=True):
            rows = [category[of_row[n["row"]]] for n in near["nearest"] if n["row"] in of_row]
            shares.append(np.mean([c == category[item] for c in rows]) if rows else 0.0)
        mean, reach = float(np.mean(shares)), 1.96 * float(np.std(shares)) / len(shares) ** 0.5
        found.append(Estimate(stored.name, mean, mean - reach, min(mean + reach, 1.0)))
    counts = np.bincount(category[category >= 0])
    return [*found, Estimate("chance", float(np.square(counts / counts.sum()).sum()))]


def _gallery(stores: Sequence[Stored], pictures: Pictures) -> Exhibit:
    shown = np.logical_and.reduce([stored.item_rows != UNKNOWN for stored in stores])
    items = _queries(np.flatnonzero(shown & (pictures.contents.image_keys != "")), pictures)
    near = [neighbours(s.version, s.item_rows[items], NEAR) for s in stores] if len(items) else []
    body, rows = "", []
    for place, item in enumerate(map(int, items)):
        columns = ""
        for stored, found in zip(stores, near, strict=True):
            of_row = {int(row): int(i) for i, row in enumerate(stored.item_rows) if row != UNKNOWN}
            tiles = ""
            for rank, n in enumerate(found[place]["nearest"], 1):
                if n["row"] not in of_row:
                    continue
                other = of_row[n["row"]]
                cosine = f'<span class="dim">{n["cosine"]:.3f}</span>'
                tiles += f"<li>{pictures.html(other, cosine)}</li>"
                rows.append((pictures.title(item), stored.name, rank, pictures.title(other), round(n["cosine"], 6)))
            name = f"<h4>{stored.name}</h4>" if len(stores) > 1 else ""
            columns += f'<div class="store">{name}<ul class="tiles">{tiles}</ul></div>'
        body += f'<div class="near"><div class="tile">{pictures.html(item)}</div><div>{columns}</div></div>'
    note = (
        "Left an item, drawn by chance (one a category where there are some); right its nearest items with their "
        "cosines."
    )
    columns = ("item", "store", "rank", "neighbour", "cosine")
    return Exhibit("neighbours", "What stands near what", note, body, columns, tuple(rows))


def _queries(items: np.ndarray, pictures: Pictures) -> np.ndarray:
    """Some items drawn by chance, of different categories where there are categories."""
    drawn = np.random.default_rng(1).permutation(items)
    taken: dict[int, int] = {}
    for item in map(int, drawn):
        category = pictures.category(item)
        taken.setdefault(category if category >= 0 else -1 - len(taken), item)
        if len(taken) == QUERIES:
            break
    return np.array(list(taken.values()), dtype=np.int64)


def without_dataset(paths: Sequence[Path]) -> Section:
    """Stores whose dataset is not there: their figures alone."""
    rows = []
    for path in paths:
        meta = Store(path).current.meta
        rows.append([path.name, meta["encoder"], f"{meta['dim']} x {meta['dtype']}", f"{meta['coverage']:.1%}"])
    table = Table("Stores", "", ["store", "encoder", "numbers", "coverage"], rows)
    return Section(
        "stores", "Vectors without their dataset", (Prose(("Give the dataset as well to see neighbours.",)), table)
    )
