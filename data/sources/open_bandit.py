"""Open Bandit (Saito et al., arXiv 2008.07146): logged impressions with clicks and exact propensities."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from data.errors import InputError
from data.source import About, Chunk, Split, read_csv_chunks

POLICIES = ("random", "bts")
CAMPAIGN = "men"
USER_FEATURES = [f"user_feature_{i}" for i in range(4)]


class OpenBandit:
    """Reads POLICY/men.csv and POLICY/item_context.csv under `root`.

    The log holds no user id: users here are segments of equal user features, said so in dataset.json.
    """

    def __init__(self, root: Path, policy: str = "bts") -> None:
        if policy not in POLICIES:
            raise InputError(f"--policy {policy!r}: the log has the policies {', '.join(POLICIES)}")
        self.root, self.policy = root / policy, policy
        self._items = self._read_items()

    @property
    def about(self) -> About:
        affinities = {f"affinity_{item}": pl.Float32() for item in self._items["item_id"]}
        return About(
            name=f"open_bandit/{self.policy}",
            label="click",
            actions=(),
            split=Split(rule="temporal"),
            context={**{name: pl.String() for name in USER_FEATURES}, **affinities},
            notes=(
                f"logging policy {self.policy}; propensity: of this item at this position",
                "no user ids in the log: a user is a segment of equal user_feature_0..3",
                "hashes of item features differ between the policies: never join them across",
            ),
        )

    def items(self) -> pl.DataFrame:
        """The context of the 34 items."""
        return self._items

    def users(self) -> None:
        """The log holds no users."""
        return None

    def chunks(self) -> Iterator[Chunk]:
        """All impressions; the CSV's row index is the request."""
        file = self.root / f"{CAMPAIGN}.csv"
        names = {f"user-item_affinity_{item}": f"affinity_{item}" for item in self._items["item_id"]}
        needed = ["timestamp", "item_id", "position", "click", "propensity_score", *USER_FEATURES, *names]
        dtypes = {"timestamp": pl.String(), **{name: pl.String() for name in USER_FEATURES}}
        for row, frame in read_csv_chunks(file, needed, dtypes):
            seconds = pl.col("timestamp").str.slice(0, 19).str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False)
            events = frame.rename(names).select(
                pl.concat_str(USER_FEATURES, separator="/").alias("user_id"),
                "item_id",
                seconds.dt.epoch("s").alias("ts"),
                pl.col("click").alias("label"),
                pl.lit(None, pl.Int8).alias("action"),
                pl.lit(True).alias("sample"),
                (pl.int_range(pl.len()) + row).alias("request_id"),
                pl.col("position").cast(pl.Int16),
                pl.col("propensity_score").cast(pl.Float32).alias("propensity"),
                *USER_FEATURES,
                *names.values(),
            )
            yield Chunk(events, file, row)

    def _read_items(self) -> pl.DataFrame:
        file = self.root / "item_context.csv"
        columns = ["item_id", *(f"item_feature_{i}" for i in range(4))]
        frames = [frame for _, frame in read_csv_chunks(file, columns)]
        if not frames:
            raise InputError(f"{file}: no rows; there must be one row an item")
        return pl.concat(frames)
