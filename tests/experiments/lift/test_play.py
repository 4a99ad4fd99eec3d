"""Every arm meets the same world; a ranker sees what it saw in training; sums are sums of what happened."""

import numpy as np
import polars as pl
import pytest

from data.live import LiveDataset
from data.marketplace.traffic import Traffic
from data.marketplace.utility import true_ctr
from experiments.lift.arms import Oracle, Popular, Random, Ranked, make_arm
from experiments.lift.config import Refresh
from experiments.lift.play import SUMS, Outcome, play
from features.ranks import process_group
from ranker.live import LiveRanker
from ranker.run_folder import RunFolder


def total(outcome: Outcome, name: str) -> float:
    return outcome.sums[0, :, :, SUMS.index(name)].sum()


class Told(Random):
    """Ranks at random and remembers what happened."""

    def __init__(self, world):
        super().__init__(world)
        self.shown, self.acts, self.nights = [], [], 0

    def see(self, traffic, rows, item, clicked):
        self.shown.append((item.copy(), clicked.copy()))

    def act(self, user, item, ts, action):
        self.acts.append((user, item, ts, action))

    def night(self, day):
        self.nights += 1


def test_the_traffic_is_the_same_for_every_arm_and_new_items_are_in_it(world):
    one, two = (list(world.traffic(range(4, 6), 1)) for _ in range(2))
    assert [part.day for _, part in one] == [4, 5]
    for (users, part), (again, other) in zip(one, two, strict=True):
        assert (part.candidates == other.candidates).all() and (part.sessions.user == other.sessions.user).all()
        assert (part.luck.chance == other.luck.chance).all() and (users.taste == again.taste).all()
    assert (world.items.born[np.unique(one[1][1].candidates)] >= 4).any()
    assert not (world.items.born[np.unique(one[0][1].candidates)] > 4).any()


def test_sums_are_those_of_what_was_shown_and_done(world, config):
    arm = Told(world)
    outcome = play(world, config, arm, "told")
    item = np.concatenate([shown for shown, _ in arm.shown])
    clicked = np.concatenate([clicks for _, clicks in arm.shown])
    assert total(outcome, "impressions") == item.size == 2 * 300 * 6 and arm.nights == 1
    assert total(outcome, "clicks") == clicked.sum()
    assert total(outcome, "value") == pytest.approx(world.items.value[item[clicked]].sum())
    user, acted, ts, action = (np.concatenate(parts) for parts in zip(*arm.acts, strict=True))
    assert [(action == code).sum() for code in range(3)] == [total(outcome, n) for n in ("clicks", "carts", "orders")]
    assert (acted[action == 0] == item[clicked]).all()
    assert (ts > world.market.first_day + 4 * 86_400).all() and user.max() < 150
    assert (outcome.shown.sum(1) == np.bincount(item.ravel(), minlength=len(world.items))).all()
    for place, mask in enumerate(world.slices.values()):
        assert outcome.sums[place, :, :, 0].sum() == mask[item].sum()
        assert outcome.sums[place, :, :, 1].sum() == clicked[mask[item]].sum()
    expected = total(outcome, "expected_clicks")
    assert abs(total(outcome, "clicks") - expected) < 4 * np.sqrt(expected)


def test_the_oracle_is_the_best_and_an_arm_plays_the_same_twice(world, config):
    outcomes = {arm.__name__: play(world, config, arm(world), "arm") for arm in (Random, Popular, Oracle)}
    ctr = {name: total(outcome, "expected_clicks") for name, outcome in outcomes.items()}
    assert ctr["Oracle"] > 1.2 * ctr["Popular"] and ctr["Popular"] > ctr["Random"]
    assert total(outcomes["Popular"], "revenue") > total(outcomes["Random"], "revenue")
    again = play(world, config, Popular(world), "arm")
    assert (again.sums == outcomes["Popular"].sums).all()


def test_the_popular_arm_knows_what_the_logs_say(world, market_root):
    log = pl.read_parquet(market_root / "logs" / "impressions" / "*.parquet")
    rates = world.click_rates(4)
    assert rates.shown.sum() == len(log) and rates.clicked.sum() == log["clicked"].sum()
    best = int(np.argmax(rates.clicked))
    assert rates.clicked[best] == log.filter(pl.col("sku") == f"sku-{best:06d}")["clicked"].sum()


def test_a_live_ranker_scores_the_samples_of_the_disk_as_evaluation_did(world, market_root):
    """Same rows, scored through memory: the test split of the prepared dataset, played as if it were live."""
    run = RunFolder(market_root / "run")
    dataset = LiveDataset(market_root / "data", world.market.first_day, None)
    rows = dataset.samples("test").collect()
    ends = dataset.history_ends(rows["user"].to_numpy().astype(np.int64), rows["ts"].to_numpy())
    assert (ends == rows["history_end"].to_numpy()).all()
    with process_group() as ranks:
        ranker = LiveRanker(run, dataset, ranks)
        counts = ("item_impressions", "item_positives", "user_impressions", "user_positives")
        scores = ranker.score(rows.drop(counts).with_columns(context=pl.col("request_id")))
    assert scores == pytest.approx(run.read_predictions("test")["score"].to_numpy(), rel=1e-5)


def test_a_ranker_s_users_have_the_histories_of_their_own_arm(world, config, market_root):
    with process_group() as ranks:
        arm = make_arm(world, config, "tiny", ranks)
        assert isinstance(arm, Ranked)
        before = arm.dataset.behaviors()
        told, act = [], arm.act
        arm.act = lambda user, item, ts, action: (told.append((user, ts)), act(user, item, ts, action))  # pyright: ignore
        outcome = play(world, config, arm, "tiny")
    after = arm.dataset.behaviors()
    gained = np.diff(after.offsets) - np.diff(before.offsets)
    done = sum(outcome.sums[0, :, :, SUMS.index(name)].sum(1) for name in ("clicks", "carts", "orders"))
    assert (gained[world.user_rows] == done).all() and done.sum() > 100
    # a session sees all that its user did earlier, the same day included
    user, ts = (np.concatenate(parts) for parts in zip(*told, strict=True))
    busy = np.bincount(user).argmax()
    last = ts[user == busy].max()
    row = np.array([world.user_rows[busy]])
    ends = [
        arm.dataset.history_ends(row, np.array([at]))[0] for at in (world.market.first_day + 4 * 86_400, last, last + 1)
    ]
    assert ends[0] <= ends[1] < ends[2] == np.diff(after.offsets)[row[0]]


def test_a_daily_model_learns_from_the_logs_and_from_what_its_arm_showed(world, config, market_root):
    nightly = config.model_copy(update={"refresh": Refresh(model=True, vectors=True)})
    with process_group() as ranks:
        arm = make_arm(world, nightly, "tiny", ranks)
        assert isinstance(arm, Ranked)
        known = arm.ranker._counts["item_impressions"].sum()
        assert known == 4 * 300 * 6  # the whole log, of which training saw 70 %
        before = {name: value.clone() for name, value in arm.ranker.model.state_dict().items()}
        waiting, lessons, wait, learn = [], [], arm.ranker.wait, arm.ranker.learn
        arm.ranker.wait = lambda items: (waiting.append(items), wait(items))  # pyright: ignore
        arm.ranker.learn = lambda frame: lessons.append((frame, learn(frame)))  # pyright: ignore
        outcome = play(world, nightly, arm, "tiny")
        (frame, loss) = lessons[0]
        assert len(lessons) == 1 and len(frame) == 300 * 6 == outcome.sums[0, :, 0, 0].sum()
        assert frame["label"].sum() == outcome.sums[0, :, 0, SUMS.index("clicks")].sum()
        assert sorted(frame["position"].unique()) == [1, 2, 3, 4, 5, 6]
        assert arm.ranker._counts["item_impressions"].sum() == known + 300 * 6
        assert (waiting[0] == (world.items.born >= 5)).all() and len(waiting) == 1
        after = arm.ranker.model.state_dict()
        assert any((after[name] != value).any() for name, value in before.items())
        assert [learn(frame) for _ in range(3)][-1] < loss
        again = play(world, nightly, make_arm(world, nightly, "tiny", ranks), "tiny")
        plain = play(world, config, make_arm(world, config, "tiny", ranks), "tiny")
    assert (again.sums == outcome.sums).all() and (plain.sums != outcome.sums).any()


def test_a_daily_model_goes_on_from_the_checkpoint_s_optimizers(market_root, world):
    dataset = LiveDataset(market_root / "data", world.market.first_day + 4 * 86_400, None)
    with process_group() as ranks:
        ranker = LiveRanker(RunFolder(market_root / "run"), dataset, ranks, learns=True)
        plain = LiveRanker(RunFolder(market_root / "run"), dataset, ranks)
        rows = dataset.samples("test").collect().with_columns(context=pl.col("request_id"))
        assert (ranker.score(rows) == plain.score(rows)).all()
        assert ranker._optimizers is not None
        state = ranker._optimizers.all.state_dict()["state"]
    momentum = [value for parameter in state.values() for name, value in parameter.items() if "momentum" in name]
    assert momentum and all(float(value.local_shards()[0].tensor.sum()) > 0 for value in momentum)


def test_each_round_holds_a_user_once_and_all_sessions_are_played(world):
    from experiments.lift.play import _rounds

    part: Traffic = next(world.traffic(range(4, 6), 1))[1]
    user, rounds = part.sessions.user, list(_rounds(part))
    assert sorted(np.concatenate(rounds).tolist()) == list(range(len(user)))
    assert len(rounds) == np.bincount(user).max() > 2
    place = {session: number for number, rows in enumerate(rounds) for session in rows.tolist()}
    for rows in rounds:
        assert len(set(user[rows].tolist())) == len(rows)
    for one in np.flatnonzero(user == np.bincount(user).argmax()):
        assert place[one] == (user[:one] == user[one]).sum()


def test_the_random_arm_does_not_know_the_order_of_bids(world):
    users, part = next(world.traffic(range(4, 6), 1))
    rows = np.arange(len(part.request))
    order = Random(world).order(part, rows)
    bid = world.items.bid[part.candidates]
    assert abs(np.corrcoef(order.ravel(), bid.ravel())[0, 1]) < 0.03
    assert Oracle(world).pctr(users, part, rows[:5]) == pytest.approx(
        true_ctr(world.items, users, world.market, part.sessions.user, part.sessions.query, part.candidates, 0)[:5]
    )
