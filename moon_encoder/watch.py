"""New items into the representation store within seconds: read the inbox, embed, append, put the files away.

The store is the memory of what is done: an item that has a vector is not embedded again, so a watcher that was killed
between publishing and putting away neither loses nor doubles an item. Files are put away only after their items are
in a published version.
"""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from data.errors import InputError
from data.images import FolderImages, load_image_noted
from features.item_rows import UNKNOWN, ItemRows
from features.store import Store, Version, version_numbers
from features.store_append import append, fill
from moon_encoder.content import Content
from moon_encoder.embedding import Loaded, Problem, embed
from moon_encoder.encoder import Encoder
from moon_encoder.forms import Catalogue, shows_image, shows_text
from moon_encoder.inbox import Drop, Inbox


@dataclass
class Totals:
    """What a watcher has done: items by fate, and seconds from the drop to the published vector of each."""

    embedded: int = 0
    known: int = 0
    failed: int = 0
    latency: list[float] = field(default_factory=list)


class Watcher:
    """One encoder, one store, one inbox."""

    def __init__(self, encoder: Encoder, name: str, store: Path, inbox: Path, batch: int) -> None:
        """`name`: as the store calls the encoder.

        Raises InputError if the store's newest version is not of this encoder, or was made without ids.
        """
        self.encoder, self.name, self.batch = encoder, name, batch
        self.inbox, self.images = Inbox(inbox), FolderImages(inbox)
        self.store = Store(store)
        self._same_encoder()
        self.rows = ItemRows(self.store.current)
        self.totals = Totals()

    def _same_encoder(self) -> None:
        made_by = self.store.current.meta["encoder"]
        if made_by != self.name:
            raise InputError(f"{self.store.root}: its newest version is by {made_by}, not {self.name}; watch with that")
        if "content" not in self.store.current.meta:
            raise InputError(f"{self.store.root}: the store does not say what it shows of an item; embed the catalogue")

    def step(self, said: Callable[[str], None]) -> bool:
        """Take the oldest files, at most about `batch` rows, through to the store; False if none lies there."""
        drops: list[Drop] = []
        for path in self.inbox.waiting():
            try:
                drops.append(self.inbox.read(path))
            except InputError as error:
                said(f"{path.name}: {error}")
                self.inbox.complain([{"file": path.name, "reason": str(error)}])
                self.inbox.put_away(path, "failed")
                self.totals.failed += 1
            if sum(len(drop.rows) for drop in drops) >= self.batch:
                break
        if not drops:
            return False
        if self.store.refresh():
            self._same_encoder()
        self.rows.refresh(self.store.current)
        self._take(drops, said)
        for drop in drops:
            self.inbox.put_away(drop.path, "done")
        return True

    def _take(self, drops: list[Drop], said: Callable[[str], None]) -> None:
        """Embed and publish the rows of some files; complain of those that cannot be."""
        started = time.monotonic()
        rows, told = self._new_rows(drops)
        vectors, present, problems = embed(
            self.encoder, lambda n: self._load(n, rows[n][2]), np.arange(len(rows)), self.store.current.meta["dim"]
        )
        for p in problems:
            drop, number, row = rows[p.row]
            told.append(_line(drop, number, row, p.field, p.reason, p.outcome))
        seconds = time.monotonic() - started
        kept = np.flatnonzero(present)
        if len(kept):
            ids = pl.Series("item_id", [rows[n][2]["item_id"] for n in kept], dtype=self.rows.dtype)
            version = self._publish(ids, vectors[kept])
            self.rows.refresh(version)
            now = time.time()
            waited = [now - rows[n][0].dropped for n in kept]
            self.totals.latency += waited
            self.totals.embedded += len(kept)
            said(
                f"version {version.number}: {len(kept):,} items, the longest {max(waited):.2f} s after its drop "
                f"(embedding {seconds:.2f} s, publishing {time.monotonic() - started - seconds:.3f} s)"
            )
        self.totals.failed += sum(line["outcome"] == "no vector" for line in told)
        self.inbox.complain(told)

    def _new_rows(self, drops: list[Drop]) -> tuple[list[tuple[Drop, int, dict]], list[dict[str, Any]]]:
        """Rows of items without a vector, each id once, and complaints of rows that are none."""
        told, rows, seen = [], [], set()
        for drop in drops:
            told += [_line(drop, number, {}, "row", reason, "no vector") for number, reason in drop.bad]
            for number, row in drop.rows:
                row = dict(row)
                try:
                    row["item_id"] = self._id(row.get("item_id"))
                except InputError as error:
                    told.append(_line(drop, number, row, "item_id", str(error), "no vector"))
                    continue
                if row["item_id"] in seen:
                    self.totals.known += 1
                    continue
                seen.add(row["item_id"])
                rows.append((drop, number, row))
        at = self.rows.find(pl.Series([row["item_id"] for _, _, row in rows], dtype=self.rows.dtype))
        has = (at != UNKNOWN) & self.store.current.present[np.maximum(at, 0)] if len(at) else np.zeros(0, bool)
        self.totals.known += int(has.sum())
        return [row for row, there in zip(rows, has, strict=True) if not there], told

    def _id(self, value: object) -> int | str:
        """An item id of the store's kind. Raises InputError."""
        if isinstance(value, str if self.rows.dtype == pl.String else int) and not isinstance(value, bool):
            if isinstance(value, str) and ("\n" in value or not value):
                raise InputError(f"item_id {value!r:.80} is empty or holds a line break")
            if isinstance(value, str) or -(2**63) <= value < 2**63:  # type: ignore[operator]
                return value  # type: ignore[return-value]
        wanted = "text" if self.rows.dtype == pl.String else "a whole number"
        raise InputError(f"item_id {value!r:.80} is not {wanted}")

    def _load(self, number: int, row: dict[str, Any]) -> Loaded:
        meta = self.store.current.meta
        form, columns = meta["content"], Catalogue.model_validate(meta.get("columns", {}))
        text, image, faults, notes = None, None, [], []
        if shows_text(form):
            names = (columns.title, *columns.rich) if form.startswith("rich") else (columns.title,)
            parts = [str(row[name]).strip() for name in names if row.get(name) not in (None, "")]
            text = ", ".join(part for part in parts if part) or None
            faults += [] if text else [("title", "empty")]
        if shows_image(form):
            try:
                key = row.get("image")
                if not isinstance(key, str):
                    raise InputError("none")
                image, note = load_image_noted(self.images, key)
                notes += [Problem(number, "image", note, "embedded")] if note else []
            except InputError as error:
                faults.append(("image", str(error)))
        there = text is not None or image is not None
        outcome = "embedded without it" if there else "no vector"
        problems = [Problem(number, name, reason, outcome) for name, reason in faults] + notes
        return (Content(text, image) if there else None), problems

    def _publish(self, ids: pl.Series, vectors: np.ndarray) -> Version:
        """The store's newest version with these items; tries again where another writer was quicker.

        Items that the store knows without a vector are filled in, others appended, each in a version of its own. What
        another writer gave a vector keeps that one: a row never changes.
        """
        while True:
            base, root = self.store.current, self.store.root
            at = self.rows.find(ids)
            left = (at == UNKNOWN) | ~base.present[np.maximum(at, 0)]
            if not left.any():
                return base
            known = left & (at != UNKNOWN)
            try:
                if known.any():
                    fill(root, base, at[known], vectors[known])
                else:
                    append(root, base, ids.filter(pl.Series(left)), vectors[left])
            except InputError:
                if self.store.current.number == max(version_numbers(root), default=0):
                    raise
            self.store.refresh()
            self._same_encoder()
            self.rows.refresh(self.store.current)


def _line(drop: Drop, number: int, row: dict, field: str, reason: str, outcome: str) -> dict[str, Any]:
    item = row.get("item_id")
    item = item if isinstance(item, int | str) else None
    return {
        "file": drop.path.name,
        "row": number,
        "item_id": item,
        "field": field,
        "reason": reason,
        "outcome": outcome,
    }


@contextmanager
def sole_watcher(inbox: Path) -> Iterator[None]:
    """Raise InputError if another watcher works on this inbox."""
    inbox.mkdir(parents=True, exist_ok=True)
    with open(inbox / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{inbox}: another watcher is at work on this inbox") from None
        yield
