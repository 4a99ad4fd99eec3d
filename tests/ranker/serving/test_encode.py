"""Requests through the training encoder: the same features as from the dataset, unknown ids, lists, actions, counts."""

import numpy as np
import polars as pl
import pytest

from data.dataset import Dataset
from data.errors import InputError
from features.collate import Collator
from features.encoder import FeatureEncoder
from features.samples import SampleEncoder
from features.spec import FeatureSpec
from ranker.exporting.recorded import recorded_requests, tensors_of
from ranker.serving.catalogue import Catalogue, write_catalogue
from ranker.serving.encode import RequestEncoder
from ranker.serving.requests import Requests, request_of, requests_of
from ranker.serving.signature import Signature, signature
from tests.features.conftest import SPEC, dataset, toy  # noqa: F401

ROWS = 60


@pytest.fixture(scope="module")
def toy_spec() -> FeatureSpec:
    return FeatureSpec.model_validate(SPEC)


@pytest.fixture(scope="module")
def opened(toy, toy_spec, tmp_path_factory):  # noqa: F811
    """(samples of the toy log, encoder of its requests)."""
    log, root = Dataset(toy), tmp_path_factory.mktemp("catalogues")
    encoder = FeatureEncoder.fit(toy_spec, log)
    write_catalogue(encoder, "item", log.items().collect(), root / "items")
    write_catalogue(encoder, "user", log.users().collect(), root / "users")
    catalogues = (Catalogue(encoder, kind, root / f"{kind}s") for kind in ("item", "user"))
    return SampleEncoder(encoder, log), RequestEncoder(encoder, signature(toy_spec, log), *catalogues)


def facts(batch) -> dict:
    """What a batch says, whatever the numbering of its distinct items and combinations."""
    keyed = {name: jagged for kjt in batch.ids.values() for name, jagged in kjt.to_dict().items()}
    ids = {name: jagged.values().tolist() for name, jagged in keyed.items()}
    bags = {name: np.split(np.array(ids[name]), np.cumsum(n.numpy())[:-1]) for name, n in batch.bags.items()}
    item = [(*(ids[n][u] for n in ("item", "shop", "price")), tuple(bags["tags"][u])) for u in range(len(batch.items))]
    found = {
        "rows": [[ids[n][b] for n in ("user", "hour", "age", "seen")] for b in range(len(batch))],
        "target": [item[u] for u in batch.target],
        "dense": batch.dense.tolist(),
    }
    for name, s in batch.sequences.items():
        found[name] = s.lengths.tolist(), s.row.tolist(), [item[u] for u in s.item]
        if s.side is not None:
            sides = [n for n in ids if n.startswith(f"{name}_")]
            found[f"{name} side"] = [[ids[n][i] for n in sides] for i in s.side.tolist()]
    return found


def from_dataset(samples, rows):
    frame = samples.dataset.samples("test").collect().with_row_index("row")
    window = samples.window(frame.select(pl.col("row").cast(pl.Int64), *samples.read_columns))
    return facts(Collator(samples).collate(window, np.arange(len(window))[rows]))


def test_a_table_of_requests_gives_the_features_of_the_dataset(opened):
    samples, encoder = opened
    frame = recorded_requests(samples.dataset, "test", encoder.signature, slice(0, ROWS))
    batch, unknown = encoder.encode(requests_of(encoder.signature, frame), {})
    assert facts(batch) == from_dataset(samples, slice(0, ROWS))
    assert unknown.user.sum() == 0
    oov = [t[0] == 0 for t in facts(batch)["target"]]
    assert unknown.candidates.tolist() == [int(x) for x in oov]


def test_requests_by_tensors_joined_give_the_features_of_the_dataset(opened):
    samples, encoder = opened
    frame = recorded_requests(samples.dataset, "test", encoder.signature, slice(0, ROWS))
    parts = [request_of(encoder.signature, tensors_of(encoder.signature, row)) for row in frame.to_dicts()]
    batch, _ = encoder.encode(Requests.joined(parts), {})
    assert facts(batch) == from_dataset(samples, slice(0, ROWS))


def test_many_candidates_of_one_user_give_what_each_gives_alone(opened):
    samples, encoder = opened
    own = encoder.signature
    frame = recorded_requests(samples.dataset, "test", own, slice(0, 8))
    tensors = tensors_of(own, frame.to_dicts()[5])
    alone = [facts(encoder.encode(request_of(own, tensors | {"item": np.array([i])}), {})[0]) for i in frame["item"]]
    together = facts(encoder.encode(request_of(own, tensors | {"item": frame["item"].to_numpy()}), {})[0])
    assert together["target"] == [x["target"][0] for x in alone] and together["rows"] == [x["rows"][0] for x in alone]
    assert together["bought side"] == [side for x in alone for side in x["bought side"]]
    assert together["all"][2] == [item for x in alone for item in x["all"][2]]


def test_an_unknown_id_is_hashed_where_the_table_hashes_and_counted(toy, tmp_path):  # noqa: F811
    log = Dataset(toy)
    spec = FeatureSpec.model_validate(SPEC | {"tables": {"user": {"hash_rows": 50}}})
    encoder = FeatureEncoder.fit(spec, log)
    write_catalogue(encoder, "item", log.items().collect(), tmp_path / "items")
    write_catalogue(encoder, "user", log.users().collect(), tmp_path / "users")
    catalogues = (Catalogue(encoder, kind, tmp_path / f"{kind}s") for kind in ("item", "user"))
    requests = RequestEncoder(encoder, signature(spec, log), *catalogues)
    frame = recorded_requests(log, "test", requests.signature, slice(0, 4))
    frame = frame.with_columns(user=pl.Series([1, 777_777, 1, 1]), item=pl.Series([888, frame["item"][1], 888, 999]))
    batch, unknown = requests.encode(requests_of(requests.signature, frame), {})
    found = facts(batch)
    assert found["rows"][1][0] == encoder.vocabularies["user"].encode(np.array([777_777]))[0] > 0
    assert found["target"][0] == found["target"][2] == (0, 0, 0, ()) and unknown.candidates.tolist()[::3] == [1, 1]


def test_items_that_came_later_are_known_with_their_columns(opened, toy, toy_spec, tmp_path):  # noqa: F811
    log = Dataset(toy)
    encoder = opened[0].encoder
    write_catalogue(encoder, "item", log.items().collect(), tmp_path / "items")
    items = Catalogue(encoder, "item", tmp_path / "items")
    before = items.size
    later = pl.DataFrame(
        {"item_id": [5001, 5000], "shop": ["shop 1", None], "tags": [["t1", "t2"], None], "price": [2.5, None]}
    )
    assert items.learn(later[:1]) == 1 and items.learn(later) == 1 and items.size == before + 2
    found = items.find(np.array([5000, 5001, 9999, 5001]))
    assert found.ids[found.at].tolist() == [5000, 5001, 9999, 5001]
    shop = encoder.vocabularies["shop"].encode(np.array(["shop 1"]))[0]
    assert found.entities.codes["shop"].values[found.at].tolist() == [0, shop, 0, shop]
    tags = found.entities.codes["tags"].take(found.at)
    assert np.diff(tags.offsets).tolist() == [0, 2, 0, 2]
    assert items.learn(later) == items.learn(pl.DataFrame({"item_id": [5000, None]})) == 0
    with pytest.raises(InputError, match="no column 'item_id'; columns: shop"):
        items.learn(later.select("shop"))


GOOD = {
    "user": [3], "ts": [10_000_000_000], "item": [1, 2, 3], "hour": [4],
    "item_impressions": [1.0], "item_positives": [0],
    "history.item": [1, 2], "history.ts": [5, 5], "history.action": ["buy", "click"], "history.weight": [0.1, 0.2],
}  # fmt: skip
BAD = [
    ({"user": [3, 4]}, "input 'user': 2 values, must be one"),
    ({"user": ["x"]}, "input 'user': has datatype <U1, must be INT64"),
    ({"user": [1.5]}, "input 'user': has datatype float64, must be INT64"),
    ({"item": []}, "input 'item': no candidate"),
    ({"item": None}, "input 'item' is missing"),
    ({"itme": [1]}, "input 'itme': the model has no such input; its inputs: user, ts, item"),
    ({"item_impressions": [1.0, 2.0]}, "input 'item_impressions': 2 values for 3 candidates; give 3, or 1 for all"),
    ({"history.ts": [5]}, "input 'history.ts': 1 values, 'history.item' has 2"),
    ({"history.ts": [5, 4]}, "input 'history.ts': 4 comes after 5; give the oldest first"),
    ({"ts": [5]}, "input 'history.ts': 5 is not before ts 5"),
    ({"history.action": ["buy", "bought"]}, "input 'history.action': 'bought' is no action; actions: click, buy"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_a_wrong_request_is_one_line(opened, change, message):
    own: Signature = opened[1].signature
    kinds = {i.name: i.datatype for i in own.inputs}
    empty = {"INT64": np.int64, "FP64": np.float64, "BYTES": np.str_}
    tensors = {n: np.array(v, empty[kinds[n]]) for n, v in GOOD.items() if n in kinds}
    assert len(request_of(own, tensors)) == 1
    for name, values in change.items():
        tensors[name] = np.array(values) if values else np.array([], np.int64)
        if values is None:
            del tensors[name]
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        request_of(own, tensors)


def test_a_wrong_table_is_one_line(opened):
    samples, encoder = opened
    frame = recorded_requests(samples.dataset, "test", encoder.signature, slice(0, 5))
    with pytest.raises(InputError, match=r"no column 'ts' \(INT64"):
        requests_of(encoder.signature, frame.drop("ts"))
    with pytest.raises(InputError, match="column 'user' is String; it needs INT64"):
        requests_of(encoder.signature, frame.with_columns(pl.col("user").cast(pl.String)))
    with pytest.raises(InputError, match="column 'item': 5 null values"):
        requests_of(encoder.signature, frame.with_columns(item=pl.lit(None, pl.Int64)))
    with pytest.raises(InputError, match=r"history\.ts has 0 values, history\.item"):
        requests_of(encoder.signature, frame.with_columns(pl.col("history.ts").list.head(0)))
