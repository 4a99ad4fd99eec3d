"""The prepared dataset as a reader sees it, and what it says of one that is broken."""

import json
import shutil

import numpy as np
import polars as pl
import pytest

from data.dataset import Dataset
from data.errors import InputError


def test_the_contract(small):
    dataset = Dataset(small)
    meta = dataset.meta
    assert meta["schema_version"] == 1 and dataset.actions == ["disliked", "liked"] and len(dataset.fingerprint) == 64
    train = dataset.samples("train").collect()
    assert {name: str(dtype) for name, dtype in train.schema.items()} == {
        name: facts["dtype"] for name, facts in meta["sample_columns"].items()
    }
    assert train.schema["ts"] == pl.Int64 and train.schema["user"] == train.schema["item"] == pl.Int32
    assert train.schema["label"] == pl.Int8 and train.schema["history_end"] == pl.Int32
    assert {n: str(t) for n, t in dataset.items().collect_schema().items()} == meta["item_columns"]
    behaviors = dataset.behaviors()
    assert [a.dtype for a in (behaviors.offsets, behaviors.item, behaviors.ts, behaviors.action)] == [
        np.int64, np.int32, np.int64, np.int8
    ]  # fmt: skip
    assert isinstance(behaviors.item, np.memmap) and behaviors.side["rating"].dtype == np.float32
    assert behaviors.offsets[-1] == len(behaviors.item) == meta["counts"]["behaviors"]
    assert meta["time_range"] == {"first": int(behaviors.ts.min()), "last": int(behaviors.ts.max())}


@pytest.mark.parametrize("entity", ["item", "user"])
def test_train_counts(small, entity):
    train = Dataset(small).samples("train").collect()[entity].to_list()
    counts = Dataset(small).train_counts(entity)
    assert counts.tolist() == [train.count(i) for i in range(len(counts))]
    assert entity == "user" or (counts == 0).any()


def broken(small, tmp_path):
    return shutil.copytree(small, tmp_path / "d")


def test_an_unknown_and_an_absent_split(small, tmp_path):
    with pytest.raises(InputError, match=r"^split 'tset' is unknown; splits: train, valid, test$"):
        Dataset(small).samples("tset")
    root = broken(small, tmp_path)
    shutil.rmtree(root / "samples" / "test")
    with pytest.raises(InputError, match=r"d: split 'test' holds no rows$"):
        Dataset(root).samples("test")


def test_no_dataset_and_another_version(small, tmp_path):
    with pytest.raises(
        InputError, match=r"no prepared dataset \(dataset.json is missing\); make one with moon prepare"
    ):
        Dataset(tmp_path)
    root = broken(small, tmp_path)
    meta = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps(meta | {"schema_version": 2}))
    with pytest.raises(InputError, match="schema version 2, this program reads 1; prepare the dataset again"):
        Dataset(root)


def test_a_cut_off_or_absent_file(small, tmp_path):
    root = broken(small, tmp_path)
    for file in ("behaviors/ts.npy", "samples/train/part-00000.parquet"):
        data = (root / file).read_bytes()
        for kept in (len(data) // 2, 0):
            (root / file).write_bytes(data[:kept])
            with pytest.raises(InputError) as error:
                Dataset(root).behaviors() if file.endswith("npy") else Dataset(root).samples("train")
            kind = "parquet" if file.endswith("parquet") else ".npy"
            assert str(error.value) == f"{root / file}: not a whole {kind} file (truncated?); prepare the dataset again"
    (root / "behaviors" / "ts.npy").unlink()
    with pytest.raises(InputError, match=r"behaviors/ts\.npy: no such file; prepare the dataset again$"):
        Dataset(root).behaviors()
