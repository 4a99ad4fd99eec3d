"""What is searched for, and what is right: the queries of each recall task, made of a dataset.

image-search  pictures searched with -> items        (pairs of the log, pairs the source names, or a file of pairs)
text-search   texts searched with -> items           (the same)
title-image   items' titles -> items shown by picture alone; right is every item of that title
image-title   items' pictures -> items shown by title alone; right is every item of that title
item-item     items -> other items of the same value of a column, or that users took together with it
next-item     a user's behaviours -> the next click  (moon_encoder.next_item)
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from data.errors import InputError
from data.images import FolderImages, ImageSource, TarImages, load_image
from data.source import read_csv_chunks, read_parquet, read_schema, require_columns
from moon_encoder.content import Content
from moon_encoder.embedding import Load, Loaded, Problem
from moon_encoder.forms import Contents, Form
from moon_encoder.pairs import CoOccurrence, Pairs, load_pairs
from moon_encoder.search import Listed, Relevance, SameCode

SEARCHES = ("image-search", "text-search")
TASKS = (*SEARCHES, "title-image", "image-title", "item-item", "next-item")


@dataclass(frozen=True)
class Task:
    """Q queries over the items of a dataset.

    Attributes:
        name: one of TASKS.
        gallery: form in which the items are ranked; None: the one asked for.
        load: brings query q's content; None where the queries are items.
        asks: what a query shows that the encoder must read; None where the queries are items.
        item: (Q,) int64 item index of a query that is an item and is left out of its own ranking; -1 for none.
        right: which items are right for a query; an example of them for each query in `example` (Q,) int64.
        text: (Q,) text of a query for people, "" for a picture.
    """

    name: str
    gallery: Form | None
    load: Load | None
    asks: Literal["image", "text"] | None
    item: np.ndarray
    right: Relevance
    example: np.ndarray
    text: np.ndarray

    def __len__(self) -> int:
        return len(self.item)


@dataclass(frozen=True)
class Asked:
    """What the user asked for.

    Attributes:
        allowed: (items,) bool, items whose queries count (held-out ones).
        split: of a log. limit: most queries of a task, drawn by seed 0.
        pairs: file of pairs (item_id and query_text or query_image). query_images: folder or tar of its pictures.
        same: column whose equal values are right in item-item.
    """

    contents: Contents
    allowed: np.ndarray
    split: str
    limit: int
    pairs: Path | None = None
    query_images: Path | None = None
    same: str | None = None


def make_task(name: str, asked: Asked) -> Task | str:
    """The task, or why this dataset does not have it. `next-item` is none of these."""
    makers: dict[str, Callable[[Asked], Task | str]] = {
        "image-search": lambda a: _search("image", a),
        "text-search": lambda a: _search("text", a),
        "title-image": lambda a: _across("title-image", a),
        "image-title": lambda a: _across("image-title", a),
        "item-item": _items,
    }
    return makers[name](asked)


def _drawn(count: int, asked: Asked) -> np.ndarray:
    """Which of `count` queries are asked, ascending."""
    return np.sort(np.random.default_rng(0).permutation(count)[: asked.limit])


def _search(asked_by: Literal["image", "text"], asked: Asked) -> Task | str:
    found = _file_pairs(asked_by, asked) if asked.pairs else _dataset_pairs(asked_by, asked)
    if not len(found):
        return f"no pairs of a query {asked_by} and an item" + ("" if asked.allowed.all() else " that is held out")
    query, item = found["query"].to_numpy(), found["item"].to_numpy()
    keys, number = np.unique(query.astype(str), return_inverse=True)
    kept = _drawn(len(keys), asked)
    place = np.full(len(keys), -1)
    place[kept] = np.arange(len(kept))
    mine = place[number] >= 0
    number, item = place[number[mine]], item[mine]
    example = np.zeros(len(kept), np.int64)
    example[number[::-1]] = item[::-1]
    right = Listed.of_pairs(len(kept), *_with_products(number, item, asked.contents.product))
    keys = keys[kept]
    images = _query_images(asked.query_images) if asked.query_images else None

    def load(q: int) -> Loaded:
        if asked_by == "text":
            return Content(str(keys[q])), []
        try:
            key = str(keys[q])
            return Content(image=load_image(images, key) if images else asked.contents.query_image(key)), []
        except InputError as error:
            return None, [Problem(q, "image", str(error), "no vector")]

    text = keys.astype(object) if asked_by == "text" else np.full(len(kept), "", object)
    return Task(f"{asked_by}-search", None, load, asked_by, np.full(len(kept), -1), right, example, text)


def _dataset_pairs(asked_by: str, asked: Asked) -> pl.DataFrame:
    """(query, item) of the log's searches and of the pairs that the source names."""
    parts = []
    for source in ("given", "search_text" if asked_by == "text" else "search_image"):
        pairs = load_pairs(source, asked.contents, asked.split, CoOccurrence())  # type: ignore[arg-type]
        if pairs.asked_by == asked_by:
            parts.append(_frame(pairs[asked.allowed[pairs.item]]))
    return pl.concat(parts) if parts else pl.DataFrame({"query": [], "item": []})


def _frame(pairs: Pairs) -> pl.DataFrame:
    return pl.DataFrame({"query": pl.Series(pairs.query.tolist(), dtype=pl.String), "item": pairs.item})


def _file_pairs(asked_by: str, asked: Asked) -> pl.DataFrame:
    """(query, item) of a file. Raises InputError for a missing column or an item that is not in the catalogue."""
    file, column = asked.pairs, f"query_{asked_by}"
    assert file is not None
    parquet = file.suffix == ".parquet"
    columns = list(read_schema(file, None if parquet else ","))
    require_columns(file, columns, ["item_id"])
    if column not in columns:
        return pl.DataFrame({"query": [], "item": []})
    wanted = ["item_id", column]
    table = read_parquet(file, wanted) if parquet else pl.concat([frame for _, frame in read_csv_chunks(file, wanted)])
    items = asked.contents.dataset.items().select("item_id").with_row_index("item").collect()
    table = table.select(pl.col("item_id").cast(items.schema["item_id"]), pl.col(column).cast(pl.String).alias("query"))
    found = table.join(items, on="item_id", how="left", maintain_order="left")
    if found["item"].null_count():
        row = int(found["item"].is_null().arg_max() or 0)
        raise InputError(f"{file} row {row}, column 'item_id': {table['item_id'][row]!r} is not in the catalogue")
    found = found.drop_nulls().select("query", pl.col("item").cast(pl.Int64))
    return found.filter(pl.Series(asked.allowed[found["item"].to_numpy()]))


def _query_images(path: Path) -> ImageSource:
    return FolderImages(path) if path.is_dir() else TarImages(path)


def _with_products(query: np.ndarray, item: np.ndarray, product: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pairs, and with each all items of the item's product."""
    known = product[item] >= 0
    if not known.any():
        return query, item
    order = np.argsort(product, kind="stable")
    first = np.searchsorted(product[order], product[item[known]])
    count = np.searchsorted(product[order], product[item[known]], side="right") - first
    skipped = np.cumsum(count) - count
    at = np.arange(count.sum()) - np.repeat(skipped, count) + np.repeat(first, count)
    return np.concatenate([query, np.repeat(query[known], count)]), np.concatenate([item, order[at]])


def _across(name: str, asked: Asked) -> Task | str:
    """Titles to pictures, or pictures to titles."""
    contents = asked.contents
    both = contents.has("title+image")
    if not both.any():
        return "no item has a title and a picture"
    titles = contents.titles.astype(str)
    code = np.unique(titles, return_inverse=True)[1]
    code[titles == ""] = -1
    items = np.flatnonzero(both & asked.allowed)
    if name == "title-image":
        items = items[np.unique(code[items], return_index=True)[1]]
    items = items[_drawn(len(items), asked)]
    if not len(items):
        return "no held-out item has a title and a picture"

    def title(q: int) -> Loaded:
        return Content(str(titles[items[q]])), []

    def image(q: int) -> Loaded:
        try:
            return Content(image=contents.item_image(int(items[q]))), []
        except InputError as error:
            return None, [Problem(q, "image", str(error), "no vector")]

    of_title = name == "title-image"
    return Task(
        name,
        "image" if of_title else "title",
        title if of_title else image,
        "text" if of_title else "image",
        np.full(len(items), -1),
        SameCode(code[items], code),
        items,
        titles[items].astype(object) if of_title else np.full(len(items), "", object),
    )


def _items(asked: Asked) -> Task | str:
    contents = asked.contents
    if asked.same is not None:
        table = contents.dataset.items().collect()
        if asked.same not in table.columns:
            raise InputError(
                f"--same {asked.same}: the catalogue has no such column; it has {', '.join(table.columns)}"
            )
        values = table[asked.same].cast(pl.String)
        code = values.rank("dense").fill_null(0).cast(pl.Int64).to_numpy() - 1
        times = np.bincount(code[code >= 0], minlength=1)
        items = np.flatnonzero((code >= 0) & asked.allowed & (times[np.maximum(code, 0)] > 1))
        items = items[_drawn(len(items), asked)]
        if not len(items):
            return f"no two items have the same {asked.same}"
        return _of_items(contents, items, SameCode(code[items], code), items)
    parts = [load_pairs(s, contents, asked.split, CoOccurrence()) for s in ("product", "co_engagement")]  # type: ignore[arg-type]
    query, item = (np.concatenate([getattr(p, name) for p in parts]) for name in ("query_item", "item"))
    mine = asked.allowed[item]
    if not mine.any():
        return f"no items that users took together in {asked.split}; give --same COLUMN"
    items, number = np.unique(query[mine], return_inverse=True)
    kept = _drawn(len(items), asked)
    place = np.full(len(items), -1)
    place[kept] = np.arange(len(kept))
    chosen = place[number] >= 0
    number, item = place[number[chosen]], item[mine][chosen]
    example = np.zeros(len(kept), np.int64)
    example[number] = item
    return _of_items(contents, items[kept], Listed.of_pairs(len(kept), number, item), example)


def _of_items(contents: Contents, items: np.ndarray, right: Relevance, example: np.ndarray) -> Task:
    return Task("item-item", None, None, None, items, right, example, contents.titles[items])
