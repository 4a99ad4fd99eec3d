"""The loader: a batch depends on seed, epoch and number alone; ranks share it out; every row comes once an epoch."""

import numpy as np
import polars as pl
import pytest
import torch

from data.dataset import Dataset
from data.errors import InputError
from data.prepare import prepare
from features import loader as loading
from features.batch import Batch
from features.encoder import FeatureEncoder
from features.loader import Loader
from features.samples import SampleEncoder
from features.spec import FeatureSpec
from tests.data.toy_log import ToyLog, random_rows
from tests.features.conftest import SPEC


@pytest.fixture(scope="module")
def samples(toy, spec, tmp_path_factory) -> SampleEncoder:
    """The toy log with its train rows in small row groups and several parts."""
    import shutil

    root = shutil.copytree(toy, tmp_path_factory.mktemp("cut") / "dataset")
    train = Dataset(root).samples("train").collect()
    folder = root / "samples" / "train"
    for part, start in enumerate(range(0, len(train), 300)):
        train[start : start + 300].write_parquet(folder / f"part-{part:05d}.parquet", row_group_size=64)
    return SampleEncoder(FeatureEncoder.fit(spec, Dataset(root)), Dataset(root))


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(loading, "WINDOW_ROWS", 200)


def same(a: Batch, b: Batch) -> bool:
    """Whether two batches agree in every tensor."""
    plain = [a.row.tolist() == b.row.tolist(), torch.equal(a.dense, b.dense), torch.equal(a.items, b.items)]
    keyed = [torch.equal(x.values(), b.ids[d].values()) and x.keys() == b.ids[d].keys() for d, x in a.ids.items()]
    rows = [torch.equal(s.item, b.sequences[n].item) for n, s in a.sequences.items()]
    return all(plain + keyed + rows)


def rows_of(batches) -> list[int]:
    return [r for b in batches for r in b.row.tolist()]


def test_every_row_comes_once_with_its_own_values(samples):
    train = samples.dataset.samples("train").collect()
    loader = Loader(samples, "train", 90, seed=1, shuffle=True)
    batches = list(loader.epoch())
    assert len(batches) == loader.batches == -(-len(train) // 90)
    assert sorted(rows_of(batches)) == list(range(len(train))) != rows_of(batches)
    for batch in batches:
        own = train[batch.row.numpy()]
        assert batch.label.tolist() == own["label"].to_list()
        assert batch.items[batch.target].tolist() == own["item"].to_list()


def test_without_shuffling_rows_keep_the_split_s_order(samples):
    for split in ("train", "test"):
        loader = Loader(samples, split, 77)
        assert rows_of(loader.epoch()) == list(range(loader.rows))


def test_order_follows_seed_and_epoch(samples):
    def order(seed: int, epoch: int) -> list[int]:
        return rows_of(Loader(samples, "train", 90, seed=seed, shuffle=True).epoch(epoch))

    first = order(1, 0)
    assert first == order(1, 0) and first != order(2, 0) and first != order(1, 1)


def test_shuffled_rows_of_a_batch_come_from_far_apart(samples):
    loader = Loader(samples, "train", 64, seed=1, shuffle=True)
    spread = [np.ptp(b.row.numpy()) for b in loader.epoch()]
    assert np.mean(spread) > 150


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
def test_workers_change_nothing(toy, workers):
    spec = FeatureSpec.model_validate(SPEC | {"tables": {"user": {"oov_rate": 0.3}}})
    samples = SampleEncoder(FeatureEncoder.fit(spec, Dataset(toy)), Dataset(toy))
    alone = list(Loader(samples, "train", 70, seed=5, shuffle=True, workers=0).epoch(2))
    found = list(Loader(samples, "train", 70, seed=5, shuffle=True, workers=workers).epoch(2))
    assert len(alone) == len(found) and all(map(same, alone, found))


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("shuffle", [False, True])
def test_ranks_share_out_each_global_batch(samples, world_size, shuffle):
    one = Loader(samples, "train", 12 * 8, seed=3, shuffle=shuffle)
    ranks = [
        Loader(samples, "train", 96 // world_size, seed=3, shuffle=shuffle, rank=r, world_size=world_size)
        for r in range(world_size)
    ]
    assert {loader.batches for loader in ranks} == {one.batches}
    for whole, *parts in zip(one.epoch(), *(loader.epoch() for loader in ranks), strict=True):
        assert [r for part in parts for r in part.row.tolist()] == whole.row.tolist()
        sizes = [len(part) for part in parts]
        assert max(sizes) <= -(-len(whole) // world_size)


def test_a_last_batch_smaller_than_the_ranks_is_empty_on_some(samples):
    rows = Loader(samples, "train", 1).rows
    size = next(s for s in range(2, rows) if rows % (4 * s) in (1, 2))
    last = [list(Loader(samples, "train", size, rank=r, world_size=4).epoch())[-1] for r in range(4)]
    assert sum(map(len, last)) == rows % (4 * size) and 0 in map(len, last)


@pytest.mark.parametrize("workers", [0, 3])
def test_resuming_at_a_batch_gives_the_rest_of_the_epoch(samples, workers):
    loader = Loader(samples, "train", 50, seed=2, shuffle=True, workers=workers)
    whole = list(loader.epoch(1))
    again = Loader(samples, "train", 50, seed=2, shuffle=True, workers=workers)
    for start in (0, 1, 9, len(whole) - 1, len(whole)):
        rest = list(again.epoch(1, first_batch=start))
        assert len(rest) == len(whole) - start and all(map(same, whole[start:], rest))


@pytest.mark.parametrize("pinned", [True, False])
def test_every_tensor_of_a_pinned_batch_is_page_locked_by_the_loader(samples, pinned, monkeypatch):
    locked: list[int] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: locked.append(self.data_ptr()) or self)
    batch = next(Loader(samples, "train", 16, pinned=pinned).epoch())
    expected = [batch.row, batch.label, batch.target, batch.dense, *(kjt.values() for kjt in batch.ids.values())]
    assert {t.data_ptr() for t in expected} <= set(locked) if pinned else not locked


def test_an_epoch_left_early_stops_its_threads(samples):
    import threading

    for batch in Loader(samples, "train", 20, shuffle=True, workers=3).epoch():
        assert len(batch) == 20
        break
    assert not [t for t in threading.enumerate() if t.name.startswith("loader")]


def test_a_damaged_part_is_one_line(toy, spec, tmp_path):
    import shutil

    root = shutil.copytree(toy, tmp_path / "dataset")
    samples = SampleEncoder(FeatureEncoder.fit(spec, Dataset(root)), Dataset(root))
    part = root / "samples" / "train" / "part-00000.parquet"
    data = bytearray(part.read_bytes())
    data[4:2000] = b"\xff" * 1996
    part.write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"part-00000\.parquet: row group 0 is damaged: ") as error:
        list(Loader(samples, "train", 64).epoch())
    assert "\n" not in str(error.value)
    part.write_bytes(bytes(data[: len(data) // 2]))
    with pytest.raises(InputError, match=r"part-00000\.parquet: not a (whole|readable) parquet file \(truncated\?\)"):
        Loader(samples, "train", 64)


def test_items_and_users_unknown_to_the_encoder_are_oov(dataset, spec, tmp_path):
    """An encoder meets a dataset with items and users that it was not fitted on."""
    rows = random_rows(900, seed=9).with_columns(pl.col("item_id", "user_id") + 1)  # no id in common
    columns = {"shop": pl.Series([None] * 25, dtype=pl.String), "tags": pl.Series([[]] * 25, dtype=pl.List(pl.String))}
    ids = sorted(set(rows["item_id"]))
    catalogue = pl.DataFrame({"item_id": ids}).with_columns(
        *(s.head(len(ids)).alias(n) for n, s in columns.items()), price=pl.lit(1.0)
    )
    users = pl.DataFrame({"user_id": sorted(set(rows["user_id"]))}).with_columns(age=pl.lit(1, pl.Int64))
    prepare(ToyLog(rows, catalogue=catalogue, user_table=users), tmp_path / "other")
    other = SampleEncoder(FeatureEncoder.fit(spec, dataset), Dataset(tmp_path / "other"))
    for batch in Loader(other, "test", 64).epoch():
        for name in ("item", "user"):
            values = next(k[name].values() for k in batch.ids.values() if name in k.to_dict())
            assert not values.any()
