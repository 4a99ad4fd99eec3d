"""Ali_Display_Ad_Click, pre-processed: one impression a line with its own history of 50 steps, no times.

267 comma-separated whole numbers and no header: behaviour type (50), category (50), brand (50), masks of the two
(50 each), nine user columns, seven ad columns, label. A step names a category and a brand but no item, so the
histories hold pseudo-items `pair/CATEGORY/BRAND` that share the columns category and brand with the ads `ad/ID`.
"""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

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
        seen = pl.DataFrame()
        for _, _, frame in self._frames():
            ads = frame.select(
                pl.format("ad/{}", "ad").alias("item_id"),
                pl.col("ad_category").cast(pl.String).alias("category"),
                pl.col("ad_brand").cast(pl.String).alias("brand"),
                pl.col("customer").cast(pl.String).alias("seller"),
                "campaign",
                "price",
            )
            steps = _steps(frame).drop("row", "action").explode("item_id", "category", "brand", empty_as_null=False)
            seen = pl.concat([seen, ads, steps.unique()], how="diagonal").unique("item_id", keep="first")
        return seen

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
            yield _steps(frame).select("item_id", "action")

    @cached_property
    def _rows(self) -> int:
        return sum(len(f) for file in self.files for _, f in read_csv_chunks(file, ["label"], DTYPES, NAMES))

    def _frames(self) -> Iterator[tuple[Path, int, pl.DataFrame]]:
        """(file, rows before, frame with NAMES)."""
        before = 0
        for file in self.files:
            for _, frame in read_csv_chunks(file, NAMES, DTYPES, NAMES, FRAME_ROWS):
                yield file, before, frame
                before += len(frame)


def _steps(frame: pl.DataFrame) -> pl.DataFrame:
    """List columns item_id, category, brand, action of each row's real steps, in their order."""
    rows = frame.with_row_index("row").select(
        "row",
        *(
            pl.concat_list([f"{kind}_{step}" for step in range(STEPS)]).alias(kind)
            for kind in ("type", "category", "brand", "mask")
        ),
    )
    real = rows.explode("type", "category", "brand", "mask").filter((pl.col("type") > 0) & (pl.col("mask") > 0))
    steps = real.group_by("row", maintain_order=True).agg(
        pl.format("pair/{}/{}", "category", "brand").alias("item_id"),
        pl.col("category").cast(pl.String),
        pl.col("brand").cast(pl.String),
        (pl.col("type") - 1).cast(pl.Int8).alias("action"),
    )
    empty = [pl.col(name).fill_null([]) for name in ("item_id", "category", "brand", "action")]
    return rows.select("row").join(steps, on="row", how="left", maintain_order="left").with_columns(empty)
