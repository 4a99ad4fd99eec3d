"""The worlds of `moon study lift` -> lifts with intervals over worlds, as figures and markdown."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from experiments.page import Table, cell

CONTROL, TWIN = "id_only", "_shuffled"
SLICES = ("all", "new_items")
GAUCS = {"gauc": "by user", "gauc_search": "within a search"}  # offline figures that are held against the online order
Worlds = dict[tuple[float, int], dict[str, Any]]  # (share, seed) -> the figures of a test


def gather(shares: Sequence[float], arms: Sequence[str], worlds: Worlds) -> dict[str, Any]:
    """True-CTR lifts by share and arm: over id-only, and over the arm's twin with shuffled vectors (what content alone
    adds); means of the logarithms over worlds with Student's t intervals. `rise`: see `_rise`. `agreement`: of each
    world, offline GAUC and online lift of id-only, arms and twins, and Kendall's tau between them. `tau`: its mean over
    worlds, by kind of GAUC."""
    seeds = sorted({seed for _, seed in worlds})
    found: dict[str, Any] = {"shares": list(shares), "seeds": seeds, "arms": {}, "rise": {}, "agreement": []}
    for arm in arms:
        rows = []
        for share in shares:
            seeds = sorted(seed for s, seed in worlds if s == share)
            if seeds:
                rows.append({"share": share, "seeds": seeds} | _row(arm, [worlds[share, seed] for seed in seeds]))
        found["arms"][arm] = rows
        found["rise"][arm] = {"id_only": _rise(rows, rows)}
        if "content" in rows[0]:
            found["rise"][arm]["content"] = _rise(rows, [row["content"] for row in rows])
    for (share, seed), world in sorted(worlds.items()):
        names = [name for arm in (CONTROL, *arms) for name in (arm, arm + TWIN) if name in world["arms"]]
        online = [_ratio(world, arm, CONTROL, "all") for arm in names]
        row: dict[str, Any] = {"share": share, "seed": seed}
        row["online"] = dict(zip(names, np.expm1(online).tolist(), strict=True))
        for kind in GAUCS:
            offline = [world["arms"][arm]["offline"][kind] for arm in names]
            tau = float(stats.kendalltau(offline, online)[0])  # pyright: ignore[reportArgumentType]
            row[kind] = {"offline": dict(zip(names, offline, strict=True)), "tau": tau}
        found["agreement"].append(row)
    found["tau"] = {kind: mean(row[kind]["tau"] for row in found["agreement"]) for kind in GAUCS}
    return found


def _row(arm: str, worlds: list[dict[str, Any]]) -> dict[str, Any]:
    row = _against(CONTROL, arm, worlds)
    row["worlds"] = [w["arms"][arm]["metrics"]["true_ctr"]["lift"] for w in worlds]
    if arm + TWIN in worlds[0]["arms"]:
        row["content"] = _against(arm + TWIN, arm, worlds)
    rooms = [w["arms"][arm]["metrics"]["true_ctr"]["headroom"]["value"] for w in worlds]
    row["headroom"] = mean(rooms)
    row["oracle"] = over_worlds([_ratio(w, "oracle", CONTROL, "all") for w in worlds])
    row |= {kind: mean(w["arms"][arm]["offline"][kind] for w in worlds) for kind in GAUCS}
    return row


def _against(other: str, arm: str, worlds: list[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {part: over_worlds([_ratio(w, arm, other, part) for w in worlds]) for part in SLICES}
    return row | {"lifts": [float(np.expm1(_ratio(w, arm, other, "all"))) for w in worlds]}


def _ratio(world: dict[str, Any], arm: str, other: str, part: str) -> float:
    """log of true CTR of an arm over that of another one."""
    mine, theirs = (world["arms"][name]["slices"][part]["true_ctr"]["level"]["value"] for name in (arm, other))
    return float(np.log(mine / theirs))


def mean(values: Iterable[float]) -> dict[str, float | None]:
    """Mean with its 95 % t interval; no interval for a single value."""
    numbers = np.array([*values], np.float64)
    if len(numbers) < 2:
        return {"value": float(numbers[0]), "low": None, "high": None}
    reach = float(stats.t.ppf(0.975, len(numbers) - 1) * numbers.std(ddof=1) / np.sqrt(len(numbers)))
    return {"value": float(numbers.mean()), "low": float(numbers.mean() - reach), "high": float(numbers.mean() + reach)}


def over_worlds(logs: Iterable[float]) -> dict[str, float | None]:
    """The same of logarithms of ratios, as lifts."""
    return {key: None if value is None else float(np.expm1(value)) for key, value in mean(logs).items()}


def _rise(rows: list[dict[str, Any]], lifts: list[dict[str, Any]]) -> dict[str, Any] | None:
    """How the lift's logarithm rises over the share, from the world seeds that every share has.

    value, low, high: slope a unit of share by least squares, each seed with an own intercept, and its t interval;
    slopes: of each seed; p: that the lift does not rise from share to share (Page's trend test, seeds as blocks).
    """
    seeds = sorted(set.intersection(*(set(row["seeds"]) for row in rows)))
    if len(rows) < 2 or not seeds:
        return None
    share = np.array([row["share"] for row in rows])
    values = np.log1p(
        [[one["lifts"][row["seeds"].index(s)] for row, one in zip(rows, lifts, strict=True)] for s in seeds]
    )
    x, y = np.broadcast_to(share - share.mean(), values.shape), values - values.mean(1, keepdims=True)
    slope = float((x * y).sum() / (x**2).sum())
    freedom = values.size - len(seeds) - 1
    found: dict[str, Any] = {"value": slope, "low": None, "high": None, "p": None}
    if freedom > 0:
        error = np.sqrt(((y - slope * x) ** 2).sum() / freedom / (x**2).sum())
        reach = float(stats.t.ppf(0.975, freedom) * error)
        found |= {"low": slope - reach, "high": slope + reach}
    if len(rows) > 2 and len(seeds) > 1:
        found["p"] = float(stats.page_trend_test(values[:, np.argsort(share)]).pvalue)
    return found | {"slopes": ((x * y).sum(1) / (x**2).sum(1)).tolist()}


def findings(found: dict[str, Any], arm: str) -> list[str]:
    """What an arm's lifts are, in sentences: how they rise, or at a single share what they are."""
    said = []
    for name, rise in found["rise"][arm].items():
        against = "id-only" if name == "id_only" else "shuffled vectors"
        if rise:
            tenth = {key: None if rise[key] is None else rise[key] / 10 for key in ("value", "low", "high")}
            line = f"the lift over {against} rises by {cell(tenth)} with each tenth of content share"
            said.append(line + ("." if rise["p"] is None else f" (Page's trend test: p = {rise['p']:.2g})."))
        elif len(found["arms"][arm]) == 1:
            row = found["arms"][arm][0]
            lift = (row if name == "id_only" else row["content"])["all"]
            said.append(f"true CTR over {against} {cell(lift)} at content share {row['share']:g}.")
    return said


def markdown(found: dict[str, Any]) -> str:
    """The figures as text."""
    said = "\n".join(f"- *{arm}*: {line}" for arm in found["arms"] for line in findings(found, arm))
    return "\n\n".join(part for part in (said, *(table.markdown() for table in tables(found))) if part) + "\n"


def tables(found: dict[str, Any]) -> list[Table]:
    """One table an arm, then offline against online by kind of GAUC."""
    made = []
    for arm, rows in found["arms"].items():
        twin = "content" in rows[0]
        head = ["content share", "worlds", "lift of true CTR", "on new items"]
        head += ["over shuffled vectors", "the same, new items"] * twin + ["headroom captured", "oracle"]
        lines = [
            [
                f"{row['share']:g}",
                str(len(row["seeds"])),
                *(cell(row[part]) for part in SLICES),
                *(cell(row["content"][part]) for part in SLICES if twin),
                cell(row["headroom"], "{:.0%}"),
                cell(row["oracle"]),
            ]
            for row in rows
        ]
        over = "id-only, and over the same ranker trained on shuffled vectors" if twin else "id-only"
        note = f"Over {over}; means over worlds with t intervals."
        made.append(Table(arm, note, head, lines))
    names = list(found["agreement"][0]["online"])
    for kind, what in GAUCS.items():
        note = (
            f"GAUC {what} of the test rows and true-CTR lift over id-only of the same run in the same world; tau: "
            f"Kendall's over these rankers, in the mean {cell(found['tau'][kind], '{:+.2f}')}."
        )
        lines = [
            [
                f"{row['share']:g}",
                str(row["seed"]),
                *(f"{row[kind]['offline'][name]:.4f} / {row['online'][name]:+.1%}" for name in names),
                f"{row[kind]['tau']:+.2f}",
            ]
            for row in found["agreement"]
        ]
        made.append(Table(f"GAUC {what} / online lift", note, ["content share", "world", *names, "tau"], lines))
    return made
