"""MovieLens ratings with posters: every rating is a sample (liked: rating >= 4.0) and a behaviour."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from data.source import About, Chunk, Split, read_csv_chunks, read_parquet, read_parquet_chunks, require_dtype

LIKED_FROM = 4.0


class MovielensPosters:
    """Reads ratings.parquet, items.parquet and the poster tars under `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def about(self) -> About:
        tars = [("posters.tar", "poster"), ("posters_query.tar", "query")]
        return About(
            name="movielens_posters",
            label=f"rating >= {LIKED_FROM}",
            actions=("disliked", "liked"),
            split=Split(rule="within_user", train=0.8, valid=0.1),
            side={"rating": pl.Float32()},
            images=tuple(
                {"kind": "tar", "path": str((self.root / name).resolve()), "role": role}
                for name, role in tars
                if (self.root / name).is_file()
            ),
            notes=("a rating is no impression: there are no items shown and ignored",),
        )

    def items(self) -> pl.DataFrame:
        """Title, genres, year; `image_key` is the poster's file name."""
        columns = ["item_id", "title", "genres", "year", "has_poster"]
        key = pl.when("has_poster").then(pl.format("{}.jpg", "item_id"))
        genre = pl.col("genres").list.first().alias("category")
        frame = read_parquet(self.root / "items.parquet", columns)
        return frame.select("item_id", "title", genre, "genres", "year", key.alias("image_key"))

    def pairs(self) -> pl.DataFrame:
        """Second posters as queries: poster_pairs.csv, if it is there."""
        file = self.root / "poster_pairs.csv"
        if not file.is_file():
            return pl.DataFrame(schema={"item_id": pl.Int32})
        parts = [frame for _, frame in read_csv_chunks(file, ["relevant_item_id", "query_image"])]
        return pl.concat(parts).select(pl.col("relevant_item_id").alias("item_id"), "query_image")

    def users(self) -> None:
        """The log holds user ids only."""
        return None

    def chunks(self) -> Iterator[Chunk]:
        """All ratings."""
        file = self.root / "ratings.parquet"
        for row, frame in read_parquet_chunks(file, ["user_id", "item_id", "rating", "ts"]):
            require_dtype(file, frame.schema, "rating", "number")
            rating = pl.col("rating").fill_nan(None)
            liked = (rating >= LIKED_FROM).cast(pl.Int8)
            events = frame.with_columns(
                rating.cast(pl.Float32),
                label=liked,
                action=liked,
                sample=pl.lit(True),
            )
            yield Chunk(events, file, row)
