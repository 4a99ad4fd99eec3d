"""Fitting sees train rows only; what is fitted survives saving; mistakes in a specification are one line."""

import math

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from data.dataset import Dataset
from data.errors import InputError
from data.prepare import prepare
from features.encoder import FeatureEncoder
from features.samples import SampleEncoder
from features.spec import FeatureSpec, Table
from tests.data.toy_log import T0, ToyLog, random_rows
from tests.features.conftest import SPEC


@pytest.fixture(scope="module")
def encoder(spec, dataset) -> FeatureEncoder:
    return FeatureEncoder.fit(spec, dataset)


@pytest.fixture(scope="module")
def train(dataset) -> pl.DataFrame:
    return dataset.samples("train").collect()


@pytest.fixture(scope="module")
def seen(dataset, train) -> list[int]:
    """Places of the behaviours that a train sample sees, by a loop."""
    offsets, places = dataset.behaviors().offsets, set()
    for user, end in train.select("user", "history_end").iter_rows():
        places |= set(range(offsets[user], offsets[user] + end))
    assert len(places) < 0.8 * offsets[-1]
    return sorted(places)


def test_an_id_needs_its_count_of_train_rows_and_of_behaviours_seen(encoder, dataset, train, seen):
    ids = dataset.items().collect()["item_id"].to_list()
    shown = train["item"].to_list() + dataset.behaviors().item[seen].tolist()
    often = sorted(ids[i] for i in range(len(ids)) if shown.count(i) >= 70)
    assert 0 < len(often) < len(ids)
    assert encoder.vocabularies["item"].values.tolist() == often and encoder.rows("item") == len(often) + 1
    assert encoder.rows("hour") == 7 and encoder.vocabularies["hour"].hashed


def test_a_value_seen_after_training_only_is_oov(toy, spec):
    """Values of valid and test rows reach neither vocabularies nor quantiles nor means."""
    dataset = Dataset(toy)
    reference = FeatureEncoder.fit(spec, dataset)
    whole = dataset.samples

    def shifted(split: str) -> pl.LazyFrame:
        changed = whole(split)
        return changed if split == "train" else changed.with_columns(pl.col("item_impressions", "hour") + 1_000_000)

    dataset.samples = shifted  # type: ignore[method-assign]
    assert FeatureEncoder.fit(spec, dataset).fingerprint == reference.fingerprint


def test_side_features_are_learnt_from_the_behaviours_seen_in_training(dataset, seen):
    weight, action = dataset.behaviors().side["weight"], dataset.behaviors().action[seen].tolist()
    found = FeatureEncoder.fit(side(kind="bucket", column="weight", quantiles=4), dataset).buckets["s_x"]
    assert found.cuts.tolist() == np.unique(np.quantile(weight[seen].astype(np.float64), [0.25, 0.5, 0.75])).tolist()
    assert found.cuts.tolist() != np.quantile(weight.astype(np.float64), [0.25, 0.5, 0.75]).tolist()
    fewer, more = sorted((action.count(code), code) for code in (0, 1))
    assert fewer[0] < more[0]
    spec = side({"s_x": {"min_count": more[0]}}, kind="id", column="action")
    assert FeatureEncoder.fit(spec, dataset).vocabularies["s_x"].values.tolist() == [more[1]]
    hashed = FeatureEncoder.fit(side({"s_x": {"hash_rows": 5}}, kind="id", column="action"), dataset)
    assert hashed.rows("s_x") == 5


def test_a_side_feature_shares_the_table_of_another(dataset):
    spec = side({"item": {"min_count": 1}}, kind="id", column="action", table="item")
    ids = dataset.items().collect()["item_id"].to_list()
    assert FeatureEncoder.fit(spec, dataset).vocabularies["item"].values.tolist() == [0, 1, *sorted(ids)]


def test_an_item_of_histories_has_a_row_though_it_was_never_shown(tmp_path):
    """Behaviours of elsewhere: their items are trained on as behaviours, unless no sequence reads them."""
    rows = random_rows(900).with_columns(user_id=pl.lit(7, pl.Int64))
    changes = {"item_id": 77, "ts": T0 - 5000, "sample": False, "action": 1}
    bought = rows.head(1).with_columns(pl.lit(v, rows.schema[name]).alias(name) for name, v in changes.items())
    prepare(ToyLog(pl.concat([rows, bought])), tmp_path / "d")
    dataset = Dataset(tmp_path / "d")
    spec = side(kind="id", column="action")
    assert 77 in FeatureEncoder.fit(spec, dataset).vocabularies["item"].values
    alone = FeatureSpec.model_validate({"features": [f.model_dump() for f in spec.features]})
    assert 77 not in FeatureEncoder.fit(alone, dataset).vocabularies["item"].values


def test_means_and_quantiles_are_those_of_train_rows(encoder, train):
    shown = np.log1p(train["item_impressions"].to_numpy())
    norm = encoder.normalisers["shown"]
    assert norm.mean == pytest.approx(shown.mean()) and norm.scale == pytest.approx(shown.std())
    cuts = np.unique(np.quantile(train["item_impressions"], [0.25, 0.5, 0.75]))
    assert encoder.buckets["seen"].cuts.tolist() == pytest.approx(cuts.tolist())
    prior = train["item_positives"].sum() / train["item_impressions"].sum()
    assert encoder.normalisers["rate"].prior == pytest.approx(prior)


def test_dense_values_row_by_row(encoder, dataset):
    samples = SampleEncoder(encoder, dataset)
    frame = dataset.samples("test").collect()
    window = samples.window(frame.with_row_index("row").select(pl.col("row").cast(pl.Int64), *samples.read_columns))
    norm, prices = encoder.normalisers, dataset.items().collect()["price"].to_list()
    behaviors = dataset.behaviors()
    for i, row in enumerate(frame.iter_rows(named=True)):
        n, k = row["item_impressions"], row["item_positives"]
        p = (k + 10 * norm["rate"].prior) / (n + 10)
        price = prices[row["item"]]
        start = behaviors.offsets[row["user"]]
        bought = int((behaviors.action[start : start + row["history_end"]] == 1).sum())
        wanted = [
            (math.log1p(n) - norm["shown"].mean) / norm["shown"].scale,
            (math.log(p / (1 - p)) - norm["rate"].mean) / norm["rate"].scale,
            norm["cost"].mean if price is None else price,
            bought,
        ]
        assert window.dense[i].tolist() == pytest.approx(wanted, rel=1e-5, abs=1e-5)


def test_saved_and_loaded_is_the_same(encoder, dataset, tmp_path):
    encoder.save(tmp_path / "encoder")
    loaded = FeatureEncoder.load(tmp_path / "encoder")
    assert loaded.fingerprint == encoder.fingerprint and loaded.spec == encoder.spec
    items = dataset.items().collect()
    for feature in encoder.spec.features[1:5]:
        column = items[feature.column.removeprefix("item.").replace("item", "item_id")]
        a, b = encoder.codes(feature, column), loaded.codes(feature, column)  # type: ignore[arg-type]
        assert a.values.tolist() == b.values.tolist()


@pytest.mark.parametrize(
    "change", [{"tables": {"item": {"min_count": 41}}}, {"tables": {}}, {"default_table": {"dim": 4}}]
)
def test_another_meaning_of_rows_is_another_fingerprint(encoder, dataset, change):
    assert FeatureEncoder.fit(FeatureSpec.model_validate(SPEC | change), dataset).fingerprint != encoder.fingerprint


def test_a_folder_without_encoder(tmp_path):
    with pytest.raises(InputError, match=r"encoder\.json: no such file; the run holds no fitted feature encoder"):
        FeatureEncoder.load(tmp_path)


def test_a_null_price_without_standardising_is_the_train_mean(encoder, dataset):
    prices = dataset.items().collect()["price"].to_numpy()
    weights = dataset.train_counts("item")
    known = ~np.isnan(prices)
    mean = np.average(prices[known], weights=weights[known])
    feature = next(f for f in encoder.spec.features if f.name == "cost")
    found = encoder.dense(feature, np.array([np.nan, 2.0]), None)
    assert found.tolist() == pytest.approx([mean, 2.0])


WRONG = [
    ({"kind": "id", "name": "x", "column": "item.shpo"}, "items.parquet: no column 'shpo'; did you mean 'shop'?"),
    ({"kind": "id", "name": "x", "column": "huor"}, "samples: no column 'huor'; did you mean 'hour'?"),
    (
        {"kind": "dense", "name": "x", "column": "item.shop"},
        "column 'shop' is String; a dense or bucket feature needs numbers",
    ),
    (
        {"kind": "id", "name": "x", "column": "item.price"},
        "column 'price' is Float64: an id needs whole numbers or text (for numbers use kind: bucket)",
    ),
    ({"kind": "id", "name": "x", "column": "item.tags"}, "feature 'x': column 'item.tags' holds lists: use kind: ids"),
    (
        {"kind": "ids", "name": "x", "column": "item.shop"},
        "feature 'x': column 'item.shop' holds single values: use kind: id",
    ),
    (
        {"kind": "dense", "name": "x", "column": "history.view"},
        "action 'view' is unknown; the dataset's actions: click, buy",
    ),
    (
        {"kind": "dense", "name": "x", "column": "item.price", "per": "hour"},
        "feature 'x': column and per must live in the same table",
    ),
]


@pytest.mark.parametrize(("feature", "message"), WRONG, ids=[m for _, m in WRONG])
def test_a_wrong_feature_is_one_line(dataset, feature, message):
    wrong = FeatureSpec.model_validate({"features": [feature]})
    with pytest.raises(InputError) as error:
        SampleEncoder(FeatureEncoder.fit(wrong, dataset), dataset)
    assert str(error.value) == message


def side(tables: dict | None = None, **feature: object) -> FeatureSpec:
    features = [{"kind": "id", "name": "item", "column": "item"}]
    sequence = {"name": "s", "fields": ["item"], "side": [{"name": "x", **feature}]}
    return FeatureSpec.model_validate({"features": features, "sequences": [sequence], "tables": tables or {}})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            side(kind="id", column="weight"),
            "side feature 'x': 'weight' is no whole-number column of the behaviours (those are: action)",
        ),
        (
            side(kind="bucket", column="wieght", boundaries=[1]),
            "side feature 'x': no column 'wieght' (there are: action, age, position, weight)",
        ),
        (side(kind="bucket", column="age", quantiles=4), "side feature 'x': 'age' needs boundaries, not quantiles"),
    ],
)
def test_a_wrong_side_feature_is_one_line(dataset, wrong, message):
    with pytest.raises(InputError) as error:
        FeatureEncoder.fit(wrong, dataset)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": [SPEC["features"][0]] * 2, "sequences": [], "tables": {}}, "names used twice: user"),
        ({"tables": {"itm": {}}}, "table 'itm' is used by no feature"),
        (
            {
                "features": [
                    *SPEC["features"],
                    {"kind": "bucket", "name": "b", "column": "c", "boundaries": [1], "table": "user"},
                ]
            },
            "table 'user' cannot hold both the buckets of b and values of user",
        ),
        ({"sequences": [{"name": "s", "fields": ["user"]}]}, "field 'user' is no item feature"),
        ({"features": [{"kind": "bucket", "name": "b", "column": "c"}]}, "give exactly one of boundaries, quantiles"),
        (
            {"features": [{"kind": "bucket", "name": "b", "column": "c", "boundaries": [2, 1]}]},
            "boundaries must ascend",
        ),
    ],
)
def test_a_specification_that_contradicts_itself(change, message):
    with pytest.raises(ValidationError, match=message):
        FeatureSpec.model_validate(SPEC | change)


def test_lookups_and_tables_keep_their_order(spec):
    assert [name for _, name in spec.lookups()] == [
        "user", "item", "shop", "tags", "price", "hour", "age", "seen",
        "bought_weight", "bought_age", "bought_position", "acted_action",
    ]  # fmt: skip
    assert spec.table("item").dim == 16 and spec.table("shop") == Table(dim=8)  # pyright: ignore[reportCallIssue]
    assert spec.table("hour").hash_rows == 7


def test_an_age_needs_times(toy):
    dataset = Dataset(toy)
    dataset.meta["time"] = "row order"
    with pytest.raises(InputError, match=r"^side feature 'x': this dataset's behaviours have an order but no times$"):
        FeatureEncoder.fit(side(kind="bucket", column="age", boundaries=[60]), dataset)
