"""A test's figures in words and tables."""

from typing import Any

from experiments.page import Table, cell


def markdown(found: dict[str, Any]) -> str:
    """The figures as text."""
    parts = [f"# Online test against {found['control']}", summary(found), *(t.markdown() for t in tables(found))]
    return "\n\n".join(parts) + "\n"


def summary(found: dict[str, Any]) -> str:
    """What was played, in a few sentences."""
    ads = "bid x pCTR" if found["rank_by"] == "bid_ctr" else "pCTR"
    text = (
        f"{found['sessions']:,} sessions of {found['users']:,} users over {found['days']} days after training, content "
        f"share {found['content_share']:g}, ads stand by {ads}. All arms met the same sessions, candidates and chance; "
        "95 % intervals, users left out one by one."
    )
    nightly = [what for what, done in found["refresh"].items() if done]
    if nightly:
        text += f" Every night the rankers' {' and '.join(nightly)} were refreshed."
    for metric, aa in found.get("aa", {}).items():
        text += (
            f" A/A by {metric}: the interval covered zero in {aa['covers_zero']:.1%} of {aa['replays']} splits; a live "
            f"test with half of these users in each arm detects {_percent(aa['minimum_detectable_effect'])}."
        )
    return text


def tables(found: dict[str, Any]) -> list[Table]:
    """The tables."""
    arms, control = found["arms"], found["control"]
    metrics = list(found["metrics"])
    lifts = [
        [name, *(cell(arm["metrics"][m]["lift"]) if name != control else "-" for m in metrics)]
        for name, arm in arms.items()
    ]
    levels = [[name, *(f"{arm['metrics'][m]['level']['value']:.4g}" for m in metrics)] for name, arm in arms.items()]
    rooms = [
        [name, *(cell(arm["metrics"][m]["headroom"], "{:.0%}") for m in metrics)]
        for name, arm in arms.items()
        if name not in (control, "oracle", "random")
    ]
    live = [
        [
            name,
            *(cell(arm["metrics"][m]["lift_of_a_live_test"]) for m in ("ctr", "rpm")),
            _percent(arm["metrics"]["ctr"]["detectable_paired"], 2),
        ]
        for name, arm in arms.items()
        if name != control
    ]
    parts = list(next(iter(arms.values()))["slices"])
    slices = [
        [
            name,
            *(
                f"{arm['slices'][p]['ctr']['level']['value'] or 0:.4f} ({cell(arm['slices'][p]['ctr']['lift'])})"
                for p in parts[:3]
            ),
        ]
        for name, arm in arms.items()
    ]
    new = [
        [
            name,
            f"{arm['slices']['new_items']['impression_share']['value']:.1%}",
            f"{arm['new_items']['shown']:.1%}",
            f"{arm['new_items']['shown_20_times']:.1%}",
            f"{arm['new_items']['items']:,}",
        ]
        for name, arm in arms.items()
    ]
    meanings = "; ".join(f"{name}: {what}" for name, what in found["metrics"].items())
    room = f"(arm - {control}) / (oracle - {control}); the oracle ranks by the true click probability."
    new_note = (
        "Items without a train impression: their share of all impressions; of those that take part, how many were "
        "shown at all, and twenty times."
    )
    live_note = (
        "Half of the users in each arm, split by hash; the last column is the smallest lift that the paired test above "
        "detects (power 80 %)."
    )
    return [
        Table(f"Lift over {control}", f"{meanings}.", ["arm", *metrics], lifts),
        Table("Levels", "", ["arm", *metrics], levels),
        Table("Share of the oracle's headroom", room, ["arm", *metrics], rooms),
        Table("Slices", f"CTR, and its lift over {control}.", ["arm", *parts[:3]], slices),
        Table("New items", new_note, ["arm", "impressions", "shown", "shown 20 times", "items"], new),
        Table("What a live test would read", live_note, ["arm", "ctr", "rpm", "detectable, paired"], live),
    ]


def _percent(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}%}"
