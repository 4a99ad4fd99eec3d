"""Which items an encoder is never trained on: a rule by a catalogue column, so that every stage holds out the same."""

import hashlib

import numpy as np
import polars as pl
from pydantic import Field, model_validator

from data.config import Config
from data.errors import InputError

TRAIN, VALID, TEST = 0, 1, 2


class HeldOut(Config):
    """Items whose `key` hashes into the held-out shares are in no training pair of any kind, and no negative."""

    key: str = Field("item_id", description="catalogue column; equal values stay together. Null: by item_id")
    valid: float = Field(0.0, ge=0, lt=1, description="share of keys held out for tuning")
    test: float = Field(0.0, ge=0, lt=1, description="share of keys held out for the last word")
    salt: str = Field("", description="another salt is another division")

    @model_validator(mode="after")
    def _some_left(self) -> "HeldOut":
        if self.valid + self.test >= 1:
            raise ValueError("valid + test must be below 1, the rest is trained on")
        return self

    def parts(self, items: pl.DataFrame) -> np.ndarray:
        """(items,) int8: TRAIN, VALID or TEST of each row of items.parquet.

        Raises InputError if the key is no column.
        """
        if self.key not in items.columns:
            raise InputError(
                f"held_out.key: the catalogue has no column {self.key!r}; it has {', '.join(items.columns)}"
            )
        parts = np.zeros(len(items), dtype=np.int8)
        if not self.valid and not self.test:
            return parts
        keys = pl.coalesce(pl.col(self.key).cast(pl.String), pl.format("item_id {}", "item_id"))
        keys = items.select(keys.alias("key"))["key"]
        share = {key: _share(key, self.salt) for key in keys.unique()}
        at = np.array([share[key] for key in keys])
        parts[at < self.test + self.valid] = VALID
        parts[at < self.test] = TEST
        return parts


def _share(key: str, salt: str) -> float:
    """A number in [0, 1) that depends on key and salt alone."""
    digest = hashlib.blake2b(f"{salt}\0{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
