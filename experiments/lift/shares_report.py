"""The worlds of `moon study lift` -> lifts with intervals over worlds, as figures and markdown."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from experiments.page import Table, cell

CONTROL, TWIN = "id_only", "_shuffled"
SLICES = ("all", "new_items")
Worlds = dict[tuple[float, int], dict[str, Any]]  # (share, seed) -> the figures of a test


def gather(shares: Sequence[float], arms: Sequence[str], worlds: Worlds) -> dict[str, Any]:
    """True-CTR lifts by share and arm: over id-only, and over the arm's twin with shuffled vectors (what content alone
    adds); means of the logarithms over worlds with Student's t intervals. `rise`: lift a unit of content share, fitted
    to each world seed that has all shares. `agreement`: Kendall's tau of the arms' offline GAUC and online lift."""
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
        names = [CONTROL, *arms]
        online = [_ratio(world, arm, CONTROL, "all") for arm in names]
        row: dict[str, Any] = {"share": share, "seed": seed}
        for part in SLICES:
            offline = [world["arms"][arm]["offline"][part]["gauc"] for arm in names]
            row[part] = None if None in offline else dict(zip(names, offline, strict=True))
        gauc = [world["arms"][arm]["offline"]["all"]["gauc"] for arm in names]
        row["online"] = dict(zip(names, np.expm1(online).tolist(), strict=True))
        row["tau"] = float(stats.kendalltau(gauc, online)[0])  # pyright: ignore[reportArgumentType]
        found["agreement"].append(row)
    return found


def _row(arm: str, worlds: list[dict[str, Any]]) -> dict[str, Any]:
    row = _against(CONTROL, arm, worlds)
    row["worlds"] = [w["arms"][arm]["metrics"]["true_ctr"]["lift"] for w in worlds]
    if arm + TWIN in worlds[0]["arms"]:
        row["content"] = _against(arm + TWIN, arm, worlds)
    rooms = [w["arms"][arm]["metrics"]["true_ctr"]["headroom"]["value"] for w in worlds]
    row["headroom"] = mean(rooms)
    row["oracle"] = over_worlds([_ratio(w, "oracle", CONTROL, "all") for w in worlds])
    row["gauc"] = mean([w["arms"][arm]["offline"]["all"]["gauc"] for w in worlds])
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


def _rise(rows: list[dict[str, Any]], lifts: list[dict[str, Any]]) -> dict[str, float | None] | None:
    """Slope of the lift's logarithm over the share, for each seed that every share has; mean over seeds."""
    seeds = sorted(set.intersection(*(set(row["seeds"]) for row in rows)))
    if len(rows) < 2 or not seeds:
        return None
    share = np.array([row["share"] for row in rows])
    slopes = []
    for seed in seeds:
        values = [np.log1p(one["lifts"][row["seeds"].index(seed)]) for row, one in zip(rows, lifts, strict=True)]
        slopes.append(float(np.polyfit(share, values, 1)[0]))
    return mean(slopes)


def markdown(found: dict[str, Any]) -> str:
    """The figures as text."""
    return "\n\n".join(table.markdown() for table in tables(found)) + "\n"


def tables(found: dict[str, Any]) -> list[Table]:
    """One table an arm, then offline against online."""
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
        note = "Over id-only, and over the same ranker trained on shuffled vectors; means over worlds with t intervals."
        for name, rise in found["rise"][arm].items():
            if rise:
                tenth = {key: None if value is None else value / 10 for key, value in rise.items()}
                against = "id-only" if name == "id_only" else "shuffled vectors"
                note += f" The lift over {against} rises by {cell(tenth)} with each tenth of content share."
        made.append(Table(arm, note, head, lines))
    note = "GAUC of the test rows and true-CTR lift of the same run in the same world; tau: Kendall's, over the arms."
    names = list(found["agreement"][0]["online"])
    lines = [
        [
            f"{row['share']:g}",
            str(row["seed"]),
            *(f"{row['all'][name]:.4f} / {row['online'][name]:+.1%}" for name in names),
            f"{row['tau']:+.2f}",
        ]
        for row in found["agreement"]
    ]
    return [*made, Table("Offline GAUC / online lift", note, ["content share", "world", *names, "tau"], lines)]
