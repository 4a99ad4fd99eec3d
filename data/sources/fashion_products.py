"""Fashion product photos with titles and attributes: a catalogue without users or clicks."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from data.source import About, Chunk, Split, read_parquet

ATTRIBUTES = ["gender", "master_category", "sub_category", "article_type", "base_colour", "season", "usage", "year"]


class FashionProducts:
    """Reads items.parquet and images.tar under `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def about(self) -> About:
        return About(
            name="fashion_products",
            label="none",
            actions=(),
            split=Split(rule="none"),
            images=({"kind": "tar", "path": str((self.root / "images.tar").resolve()), "role": "item"},),
            notes=("a catalogue only: no users, no impressions, no behaviours",),
        )

    def items(self) -> pl.DataFrame:
        """Title and attributes; `category` is the article type."""
        frame = read_parquet(self.root / "items.parquet", ["item_id", "title", *ATTRIBUTES])
        key = pl.format("{}.jpg", "item_id").alias("image_key")
        return frame.select("item_id", "title", pl.col("article_type").alias("category"), *ATTRIBUTES, key)

    def users(self) -> None:
        """There are none."""
        return None

    def chunks(self) -> Iterator[Chunk]:
        """No events."""
        return iter(())
