"""Ali_Display_Ad_Click, pre-processed: one impression a line with its own history of 50 steps, no times.

267 comma-separated whole numbers and no header: behaviour type (50), category (50), brand (50), masks of the two
(50 each), nine user columns, seven ad columns, label. A step names a category and a brand but no item, so the
histories hold pseudo-items `pair/CATEGORY/BRAND` that share the columns category and brand with the ads `ad/ID`.
"""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from data.errors import InputError
from data.source import About, Chunk, Split, read_csv_chunks

FILE_PATTERN = "alimama_sampled_*.txt"
STEPS = 50
NAMES = [
    *(f"{kind}_{step}" for kind in ("type", "category", "brand", "mask", "brand_mask") for step in range(STEPS)),
    *("user", "cms_segid", "cms_group_id", "gender", "age_level", "pvalue_level", "shopping_level", "occupation"),
    *("city_level", "ad", "ad_category", "campaign", "customer", "ad_brand", "price", "pid", "label"),
]
CONTEXT = [*NAMES[251:259], "pid"]
DTYPES = {name: pl.Float64() if name == "price" else pl.Int64() for name in NAMES}
PAIR = pl.format("pair/{}/{}", "category", "brand").alias("item_id")
FRAME_ROWS = 1 << 14  # a frame holds fifty steps a row


class AlimamaAdClick:
    """Reads alimama_sampled_*.txt under `root`; the last tenths of the rows are valid and test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = sorted(root.glob(FILE_PATTERN))
        if not self.files:
            raise InputError(f"{root}: no file {FILE_PATTERN}")

    @property
    def about(self) -> About:
        return About(
            name="alimama_ad_click",
            label="click",
            actions=("view", "type_2", "type_3", "type_4"),
            split=Split(rule="given"),
            context={name: pl.Int64() for name in CONTEXT},
            time="row order",
            notes=(
                "no times in the log: ts is the row number, the split is by row (80/10/10)",
                "history steps name category and brand only: pseudo-items pair/CATEGORY/BRAND",
                "behaviour types 2, 3, 4 are cart, favourite and buy in an order that is not documented",
            ),
        )

    def items(self) -> pl.DataFrame:
        """Ads, and the (category, brand) pairs of the histories."""
        ads, pairs = pl.DataFrame(), pl.DataFrame()
        for _, _, frame in self._frames():
            new = frame.select("ad", "ad_category", "ad_brand", "customer", "campaign", "price")
            ads = pl.concat([ads, new], how="diagonal").unique("ad", keep="first", maintain_order=True)
            pairs = pl.concat([pairs, _steps(frame).select("category", "brand")], how="diagonal").unique()
        return pl.concat(
            [
                ads.select(
                    pl.format("ad/{}", "ad").alias("item_id"),
                    pl.col("ad_category").cast(pl.String).alias("category"),
                    pl.col("ad_brand").cast(pl.String).alias("brand"),
                    pl.col("customer").cast(pl.String).alias("seller"),
                    "campaign",
                    "price",
                ),
                pairs.select(PAIR, pl.col("category", "brand").cast(pl.String)),
            ],
            how="diagonal",
        )

    def users(self) -> None:
        """User columns vary between rows of a user, so they are context of the sample."""
        return None

    def chunks(self) -> Iterator[Chunk]:
        """All impressions."""
        total = self._rows
        for file, row, frame in self._frames():
            place = pl.int_range(pl.len()) + row
            part = pl.when(place < 0.8 * total).then(pl.lit("train")).when(place < 0.9 * total)
            events = frame.select(
                pl.col("user").alias("user_id"),
                pl.format("ad/{}", "ad").alias("item_id"),
                place.alias("ts"),
                "label",
                pl.lit(None, pl.Int8).alias("action"),
                pl.lit(True).alias("sample"),
                place.alias("history_row"),
                part.then(pl.lit("valid")).otherwise(pl.lit("test")).alias("split"),
                *CONTEXT,
            )
            yield Chunk(events, file, row)

    def histories(self) -> Iterator[pl.DataFrame]:
        """The history of every row."""
        for _, _, frame in self._frames():
            rows = pl.DataFrame({"row": np.arange(len(frame))})
            lists = _steps(frame).group_by("row", maintain_order=True).agg(PAIR, "action")
            lists = rows.join(lists, on="row", how="left", maintain_order="left")
            yield lists.select(pl.col("item_id", "action").fill_null([]))

    @cached_property
    def _rows(self) -> int:
        return sum(len(f) for file in self.files for _, f in read_csv_chunks(file, ["label"], DTYPES, NAMES))

    def _frames(self) -> Iterator[tuple[Path, int, pl.DataFrame]]:
        """(file, rows before, frame with NAMES)."""
        before = 0
        for file in self.files:
            for row, frame in read_csv_chunks(file, NAMES, DTYPES, NAMES, FRAME_ROWS):
                _require_steps(file, row, frame)
                yield file, before, frame
                before += len(frame)


def _require_steps(file: Path, row: int, frame: pl.DataFrame) -> None:
    """Raise InputError at the first empty cell among the steps."""
    for name in NAMES[: 5 * STEPS]:
        if frame[name].null_count():
            at = row + int(frame[name].is_null().arg_max() or 0)
            raise InputError(f"{file} row {at}, column {NAMES.index(name)} ({name}): empty; it must be a whole number")


def _steps(frame: pl.DataFrame) -> pl.DataFrame:
    """The real steps of all rows, one a row in their order: row (in the frame), category, brand, action code."""
    kind, category, brand, mask = (
        frame.select(f"{name}_{step}" for step in range(STEPS)).to_numpy()
        for name in ("type", "category", "brand", "mask")
    )
    row, step = np.nonzero((kind > 0) & (mask > 0))
    action = (kind[row, step] - 1).clip(-1, 127).astype(np.int8)
    return pl.DataFrame({"row": row, "category": category[row, step], "brand": brand[row, step], "action": action})
