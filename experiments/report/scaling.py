"""The scaling study: curves with bands, what they foretell, and where more stops helping."""

from typing import Any

from experiments.charts.plot import Plot
from experiments.charts.xy import Curve, Plane, Point, xy
from experiments.page import Part, Prose, Section, Table

TITLES = {
    "image_search_hr@10": "picture search, HR@10",
    "image_search_mrr": "picture search, MRR",
    "contrastive": "contrastive loss (turned)",
    "answers": "log probability of an answer's token, stage 1",
    "auc": "AUC",
    "gauc": "GAUC",
}


def scaling_section(found: dict[str, Any]) -> Section:
    """The section of a study's findings (see experiments/studies/scaling.py)."""
    about = (
        f"On {found['source']}; encoders are judged on the {found['split']} split's searches, rankers on its rows. "
        "Each axis varies one quantity and leaves the rest as it is. The law is y = a − b x^−c; bands draw the "
        "seeds again and say nothing about other worlds. *Foretold*: the largest point by a law that has not seen it. "
        "Where first and last point do not differ by more than seeds do, no law is fitted."
    )
    plots = [_curve(axis, figure) for axis in found["axes"] for figure in axis["laws"]]
    parts: list[Part] = [Prose((about,)), *plots, _laws(found)]
    return Section("scaling", "Scaling", tuple(parts), verdict(found))


def verdict(found: dict[str, Any]) -> tuple[str, ...]:
    """What was found on each axis by its first figure."""
    said = []
    for axis in found["axes"]:
        figure = next(iter(axis["laws"]))
        law = axis["laws"][figure]
        rise = law["rise"]
        way = "rises" if rise["low"] > 0 else "falls" if rise["high"] < 0 else "does not change by more than seeds do"
        x = axis["x"]
        words = f"*{axis['title']}*: {TITLES[figure]} {way} from {x[0]:g} to {x[-1]:g} ({_reach(rise)})"
        if "extrapolation" in law:
            told = law["extrapolation"]
            last = sum(law["y"][-1]) / len(law["y"][-1]) - sum(law["y"][-2]) / len(law["y"][-2])
            held = "inside" if told["held"] else "outside"
            words += (
                f"; the last step brought {_signed(last)}, and the law without the largest point misses it by "
                f"{_signed(told['error'])} ({held} its band)"
            )
        said.append(words + ".")
    return tuple(said)


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "\u2212")


def _reach(value: dict[str, float]) -> str:
    return f"{_signed(value['value'])} [{_signed(value['low'])}, {_signed(value['high'])}]"


def _curve(axis: dict[str, Any], figure: str) -> Plot:
    law, points = axis["laws"][figure], []
    for x, values in zip(axis["x"], law["y"], strict=True):
        points += [Point("seeds", x, value) for value in values]
    plane = Plane(axis["title"], TITLES[figure], x_log=True)
    name, title = f"{axis['name']}-{figure.replace('@', '')}", f"{TITLES[figure]} by {axis['title']}"
    if "curve" not in law:
        note = f"first to last {_reach(law['rise'])}: not established, no law fitted"
        return xy(name, title, plane, [], points, note, series=["seeds"])
    curve, told, c = law["curve"], law["extrapolation"], law["c"]
    fit = Curve("law", curve["x"], curve["y"], curve["low"], curve["high"])
    last = Point("foretold", axis["x"][-1], told["predicted"], y_low=told["low"], y_high=told["high"])
    note = f"a {law['a']['value']:.4f}, c {c['value']:.2f} [{c['low']:.2f}, {c['high']:.2f}], R² {law['r2']:.2f}"
    return xy(name, title, plane, [fit], [*points, last], note, series=["law", "seeds", "foretold"])


def _laws(found: dict[str, Any]) -> Table:
    head = ["axis", "figure", "first to last", "a", "c", "R\u00b2", "foretold", "measured", "error"]
    rows = []
    for axis in found["axes"]:
        for figure, law in axis["laws"].items():
            rows.append([axis["title"], TITLES[figure], _reach(law["rise"]), *_cells(law)])
    return Table("Laws", "First to last: 95 % t interval over seeds.", head, rows)


def _cells(law: dict[str, Any]) -> list[str]:
    if "extrapolation" not in law:
        return ["no law"] + ["\u2013"] * 5
    told = law["extrapolation"]
    return [
        *(f"{law[k]['value']:.3f}" for k in ("a", "c")),
        f"{law['r2']:.2f}",
        *(f"{told[k]:.4f}" for k in ("predicted", "measured")),
        _signed(told["error"]),
    ]
