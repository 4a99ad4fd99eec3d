"""Pairs against a plain loop over the raw log; nothing of a later split; named pairs; logs without searches."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from data import pairs
from data.dataset import Dataset
from data.errors import InputError
from data.prepare import prepare
from data.sources.movielens_posters import MovielensPosters
from data.sources.tabular import Tabular

T0 = 1_700_000_000
DAY = 86_400


def write_shop(root: Path, split: dict, behaviors: bool = True) -> Path:
    """A log of 120 requests with four slots each; half are texts, half pictures; some clicks are bought days later."""
    rng = np.random.default_rng(3)
    requests = 120
    item = np.concatenate([rng.choice(15, 4, replace=False) for _ in range(requests)])
    request = np.repeat(np.arange(requests), 4)
    rows = pl.DataFrame(
        {
            "user_id": rng.integers(0, 8, requests)[request],
            "item_id": item,
            "ts": T0 + np.sort(rng.integers(0, 9 * DAY, requests))[request],
            "request": request,
            "clicked": (rng.random(4 * requests) < 0.4).astype(int),
            "text": [f"words {r}" if r % 2 else None for r in request],
            "photo": [None if r % 2 else f"q{r}.jpg" for r in request],
        }
    )
    root.mkdir()
    rows.write_parquet(root / "log.parquet")
    clicks = rows.filter(pl.col("clicked") == 1)
    later = pl.Series(rng.choice([60, 3600, DAY, DAY + 1, 2 * DAY], len(clicks)))
    orders = clicks.with_columns(ts=pl.col("ts") + later).filter(pl.Series(rng.random(len(clicks)) < 0.6))
    orders.select("user_id", "item_id", "ts").write_parquet(root / "orders.parquet")
    known = {
        "impressions": {"files": "log.parquet", "label": "clicked", "request_id": "request"},
        "split": split,
    }
    known["impressions"] |= {"query": "text", "query_image": "photo"}
    if behaviors:
        known["behaviors"] = [
            {"action": "click", "when": "clicked == 1"},
            {"action": "order", "files": "orders.parquet"},
        ]
    (root / "columns.yaml").write_text(yaml.safe_dump(known))
    return root


def prepared(root: Path, out: Path) -> tuple[Dataset, pl.DataFrame]:
    prepare(Tabular(root, root / "columns.yaml"), out)
    return Dataset(out), pl.read_parquet(out / "pairs" / "search.parquet")


def expected(root: Path, dataset: Dataset) -> list[tuple]:
    """(user, item, ts, action, request, split) by the words of the module's docstring."""
    log = pl.read_parquet(root / "log.parquet")
    bounds = {}
    for split in ("train", "valid", "test"):
        for row in dataset.samples(split).collect().iter_rows(named=True):
            bounds[row["request_id"], row["user"], row["item"]] = split
    users = {u: i for i, u in enumerate(dataset.users().collect()["user_id"])}
    items = {u: i for i, u in enumerate(dataset.items().collect()["item_id"])}
    cuts = dataset.meta["split"]["cuts"]
    acts = [(r["user_id"], r["item_id"], r["ts"], "click") for r in log.iter_rows(named=True) if r["clicked"]]
    acts += [(*r, "order") for r in pl.read_parquet(root / "orders.parquet").iter_rows()]
    rows = log.to_dicts()
    out = []
    for user, item, ts, action in acts:
        seen = [r for r in rows if r["user_id"] == user and r["item_id"] == item and ts - DAY <= r["ts"] <= ts]
        if not seen:
            continue
        last = max(seen, key=lambda r: r["ts"])
        split = bounds[last["request"], users[user], items[item]]
        if cuts:
            ends = {"train": cuts[0], "valid": cuts[1], "test": np.inf}
        else:
            first = {
                s: min(
                    (r["ts"] for r in rows if r["user_id"] == user
                     and bounds[r["request"], users[user], items[r["item_id"]]] == s),
                    default=np.inf,
                )
                for s in ("valid", "test")
            }  # fmt: skip
            ends = {"train": min(first.values()), "valid": first["test"], "test": np.inf}
        if ts < ends[split]:
            out.append((users[user], items[item], ts, action, last["request"], split))
    return sorted(out)


@pytest.mark.parametrize("rule", ["temporal", "within_user"])
@pytest.mark.parametrize("chunk", [2_000_000, 40])
def test_pairs_are_those_of_a_plain_loop(rule, chunk, tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "CHUNK_BEHAVIORS", chunk)
    root = write_shop(tmp_path / "raw", {"rule": rule, "train": 0.6, "valid": 0.2})
    dataset, found = prepared(root, tmp_path / "out")
    got = found.select("user", "item", "ts", "action", "request_id", "split").rows()
    want = expected(root, dataset)
    assert sorted(got) == want and len({split for *_, split in want}) == 3
    assert (found["query_text"].is_null() != found["query_image"].is_null()).all()
    assert all(f"{r['request_id']}" in (r["query_text"] or r["query_image"]) for r in found.iter_rows(named=True))
    assert sum(dataset.meta["pairs"].values()) == len(found)


def test_an_order_after_the_split_ended_is_no_pair_of_it(tmp_path):
    root = write_shop(tmp_path / "raw", {"rule": "temporal", "train": 0.6, "valid": 0.2})
    dataset, found = prepared(root, tmp_path / "out")
    train = found.filter(pl.col("split") == "train")
    assert train["ts"].max() < dataset.meta["split"]["cuts"][0]  # type: ignore[operator]
    assert len(pl.read_parquet(root / "orders.parquet")) > (found["action"] == "order").sum() > 0


def test_the_rest_of_the_request_is_clicked_or_shown_and_did_not_get_the_action(tmp_path):
    root = write_shop(tmp_path / "raw", {"rule": "temporal", "train": 0.6, "valid": 0.2})
    dataset, found = prepared(root, tmp_path / "out")
    samples = pl.concat([dataset.samples(s) for s in ("train", "valid", "test")]).collect()
    assert len(found.filter(pl.col("action") == "order", pl.col("clicked").list.len() > 0)) > 3
    for row in found.iter_rows(named=True):
        of_request = samples.filter(pl.col("request_id") == row["request_id"])
        acted = found.filter(pl.col("request_id") == row["request_id"], pl.col("action") == row["action"])["item"]
        for column, label in (("clicked", 1), ("shown", 0)):
            want = set(of_request.filter(pl.col("label") == label)["item"]) - set(acted)
            assert set(row[column] or []) == want


def test_without_behaviours_the_positive_samples_are_the_pairs(tmp_path):
    root = write_shop(tmp_path / "raw", {"rule": "temporal", "train": 0.6, "valid": 0.2}, behaviors=False)
    dataset, found = prepared(root, tmp_path / "out")
    positives = sum(dataset.samples(s).collect()["label"].sum() for s in ("train", "valid", "test"))
    assert set(found["action"]) == {"positive"} and 0.9 * positives < len(found) <= positives


def test_pairs_that_a_source_names(raw_log, tmp_path):
    root = tmp_path / "raw"
    root.mkdir()
    for file in raw_log.iterdir():
        (root / file.name).symlink_to(file)
    (root / "poster_pairs.csv").write_text(
        "query_item_id,relevant_item_id,query_image,gallery_image\n7,7,7.jpg,7.jpg\n3,3,b.jpg,3.jpg\n"
    )
    meta = prepare(MovielensPosters(root), tmp_path / "out")
    found = pl.read_parquet(tmp_path / "out" / "pairs" / "given.parquet")
    assert meta["pairs"] == {"given": 2}
    assert found.rows() == [(None, "7.jpg", 7), (None, "b.jpg", 3)]
    (root / "poster_pairs.csv").write_text("query_item_id,relevant_item_id,query_image,gallery_image\n7,999,7.jpg,x\n")
    with pytest.raises(InputError, match="pairs row 0, column 'item_id': 999 is not in the catalogue"):
        prepare(MovielensPosters(root), tmp_path / "other")


def test_pair_files_of_a_column_map(tmp_path):
    root = write_shop(tmp_path / "raw", {"rule": "temporal", "train": 0.6, "valid": 0.2})
    (root / "named.csv").write_text("words,item_id\nshoe,3\nhat,4\n")
    columns = yaml.safe_load((root / "columns.yaml").read_text())
    columns["pairs"] = {"files": "named.csv", "query": "words"}
    (root / "columns.yaml").write_text(yaml.safe_dump(columns))
    dataset, _ = prepared(root, tmp_path / "out")
    assert pl.read_parquet(tmp_path / "out" / "pairs" / "given.parquet")["query_text"].to_list() == ["shoe", "hat"]
    assert dataset.meta["pairs"]["given"] == 2


def test_a_log_without_searches_has_none(small):
    assert not (small / "pairs").exists() and Dataset(small).meta["pairs"] == {}
    ends = pairs.split_ends(Dataset(small))[0]
    first = Dataset(small).samples("valid").collect().group_by("user").agg(pl.col("ts").min())
    assert (ends[first["user"].to_numpy()] <= first["ts"].to_numpy()).all()
