"""What `moon demo` has learned: its steps' figures in one table."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from data.dataset import Dataset
from experiments.demo_config import DemoConfig
from experiments.lift.estimates import leave_one_out, lift, mean_over
from experiments.page import cell
from ranker.metrics import group_aucs
from ranker.run_folder import RunFolder

TWIN = "moon_shuffled"


def learned(out: Path, config: DemoConfig) -> tuple[list[dict[str, Any]], str]:
    """Rows {question, answer, verdict} and the table as text, from the figures in the demo's folder.

    A difference is established where its 95 % interval leaves zero out, and said not to be elsewhere. Intervals are
    over rows and users, not over trainings.
    """
    pretrained, posttrained = (_read(out / stage / "figures.json") for stage in ("pretrain", "posttrain"))
    compared, content, played = (_read(out / name) for name in ("compare.json", "content.json", "lift/lift.json"))
    rows = [*_encoder(pretrained, posttrained), *_offline(compared, "ids"), *_offline(content, "shuffled vectors")]
    within = within_a_search(out / "data", *(out / "runs" / name for name in (TWIN, "moon")))
    rows.append(_difference("the same within a search, whose ads compete online", within, "{:+.4f}"))
    rows += [*_online(played, config.days, _over_twin(out / "lift" / "arms")), _export(_read(out / "export.json"))]
    widths = [max(len(row[key]) for row in rows) for key in ("question", "answer")]
    lines = [f"{row['question']:<{widths[0]}}  {row['answer']:<{widths[1]}}  {row['verdict']}".rstrip() for row in rows]
    return rows, "\n".join(["# what was learned (one training of each ranker; intervals are over users)", *lines])


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def _row(question: str, answer: str, verdict: str = "") -> dict[str, Any]:
    return {"question": question, "answer": answer, "verdict": verdict}


def _difference(question: str, value: dict[str, float | None], form: str, against: str = "") -> dict[str, Any]:
    """A row on a difference {value, low, high}."""
    low, high = value["low"], value["high"]
    if low is None or high is None:
        verdict = "no interval"
    elif low > 0 or high < 0:
        verdict = "established"
    else:
        verdict = "not established: the interval holds zero"
    return _row(question, f"{cell(value, form)}{against}", verdict)


def _encoder(pretrained: dict[str, Any], posttrained: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name, task in pretrained["test"]["tasks"].items():
        if "accuracy" in task:
            answer = f"{task['accuracy']:.0%} [{task['low']:.0%}, {task['high']:.0%}]"
            verdict = f"the commonest answer: {task['majority']:.0%}"
            rows.append(_row(f"pretrained encoder names the {name} of an unseen photo", answer, verdict))
    for name, found in posttrained["valid"].items():
        chance = 10 / found["gallery"]
        answer = f"HR@10 {found['hr@10']:.1%}"
        rows.append(_row(f"post-trained encoder finds what was clicked, {name}", answer, f"chance: {chance:.1%}"))
    return rows


def _offline(compared: dict[str, Any], against: str) -> list[dict[str, Any]]:
    """The first recipe that is compared, and what MOON is better by."""
    rows = []
    base, name = list(compared["recipes"])[:2]
    for metric in ("auc", "gauc"):
        levels = [compared["recipes"][n][metric]["mean"] for n in (base, name)]
        found = compared["differences"][name]["rows"][metric]
        value = {"value": found["delta"], "low": found["low"], "high": found["high"]}
        words = f" ({levels[0]:.4f} -> {levels[1]:.4f})"
        rows.append(_difference(f"MOON's test {metric.upper()} over {against}", value, "{:+.4f}", words))
    return rows


def within_a_search(data: Path, base: Path, arm: Path) -> dict[str, float | None]:
    """What a run's test GAUC is better by where each search is a group of its own: mean over rows, interval over users.

    GAUC by user also rewards telling searches of one category from those of another, which no ranking of one search's
    candidates can use.
    """
    samples = Dataset(data).samples("test").select("user", "request_id").collect()
    search = samples["request_id"].to_numpy()
    values = []
    for run in (base, arm):
        found = RunFolder(run).read_predictions("test")
        _, rows, value = group_aucs(found["label"].to_numpy(), found["score"].to_numpy(), search)
        values.append(value)
    both = np.isfinite(values[0])
    first = np.unique(search, return_index=True)[1]
    user, rows = samples["user"].to_numpy()[first][both], rows[both]
    gain = (values[1] - values[0])[both]
    return mean_over(np.bincount(user, rows * gain), np.bincount(user, rows)).as_dict()


def _over_twin(arms: Path) -> dict[str, float | None]:
    """Online true-CTR lift of MOON over its twin on shuffled vectors."""
    sums = []
    for name in ("moon", TWIN):
        with np.load(arms / f"{name}.npz") as saved:
            sums.append(leave_one_out(saved["sums"][0].sum(1), "true_ctr"))
    return lift(*sums).as_dict()


def _online(played: dict[str, Any], days: int, content: dict[str, float | None]) -> list[dict[str, Any]]:
    arm = played["arms"]["moon"]
    metrics, new = arm["metrics"], arm["slices"]["new_items"]["true_ctr"]["lift"]
    rows = [
        _difference(f"online, {days} days: true CTR over ids", metrics["true_ctr"]["lift"], "{:+.1%}"),
        _difference("the same on new items", new, "{:+.1%}"),
        _difference("online: true CTR over shuffled vectors", content, "{:+.1%}"),
        _difference("online: revenue a thousand impressions over ids", metrics["rpm"]["lift"], "{:+.1%}"),
        _row("share of the oracle's headroom captured", cell(metrics["true_ctr"]["headroom"], "{:.0%}")),
    ]
    for name in ("popular", "oracle"):
        value = played["arms"][name]["metrics"]["true_ctr"]["lift"]
        rows.append(_row(f"for comparison, {name} over ids", cell(value)))
    aa = played["aa"]["ctr"]
    rows.append(_row("smallest CTR lift a live test of this size detects", f"{aa['minimum_detectable_effect']:.1%}"))
    return rows


def _export(card: dict[str, Any]) -> dict[str, Any]:
    """A package that gave other scores would not have been written."""
    (found,) = card["parity"][:1]
    answer = f"largest difference {found['largest']:.1e} in {found['rows']:,} rows"
    return _row("the exported package gives the same scores", answer, "yes" if found["passed"] else "no")
