"""A small prepared dataset with pictures, second pictures as queries, titles and ratings."""

import io
import tarfile
from pathlib import Path

import polars as pl
from PIL import Image

from data.prepare import prepare
from data.sources.movielens_posters import MovielensPosters
from tests.conftest import write_ratings
from tests.moon_encoder.conftest import WORDS, picture

ITEMS = 40
WITH_QUERY = 15


def encoded(image: Image.Image, kind: str = "PNG", **more: object) -> bytes:
    """A picture as the bytes of a file."""
    out = io.BytesIO()
    image.save(out, kind, **more)
    return out.getvalue()


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    """A tar of these files."""
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def title(item: int) -> str:
    """Words that the small tokenizer knows; items 0 and 20, 1 and 21, ... have the same title."""
    words = [w for w in WORDS if not w.startswith("[")]
    return f"{words[item % 4]} {words[3 + item % 20 // 3]} {item % 20}"


def write_posters(
    root: Path, files: dict[str, bytes] | None = None, titles: dict[int, str | None] | None = None
) -> Path:
    """Raw files: ITEMS films with a poster each, WITH_QUERY second posters. `files`, `titles` replace some."""
    write_ratings(root, users=30, items=ITEMS, rows=1500)
    items = pl.read_parquet(root / "items.parquet")
    told = [(titles or {}).get(i, title(i)) for i in range(ITEMS)]
    items.with_columns(title=pl.Series(told, dtype=pl.String), has_poster=pl.lit(True)).write_parquet(
        root / "items.parquet"
    )
    posters = {f"{i}.jpg": encoded(picture(i)) for i in range(ITEMS)} | (files or {})
    write_tar(root / "posters.tar", {name: data for name, data in posters.items() if data is not None})
    second = {f"{i}.jpg": encoded(picture(i, (48, 40))) for i in range(WITH_QUERY)}
    write_tar(root / "posters_query.tar", second)
    pairs = pl.DataFrame({"query_item_id": range(WITH_QUERY), "relevant_item_id": range(WITH_QUERY)})
    names = [pl.format("{}.jpg", "query_item_id").alias(name) for name in ("query_image", "gallery_image")]
    pairs.with_columns(names).write_csv(root / "poster_pairs.csv")
    return root


def prepare_posters(root: Path, **odd: dict) -> Path:
    """The prepared dataset, in root/data."""
    prepare(MovielensPosters(write_posters(root / "raw", **odd)), root / "data")
    return root / "data"
