"""What a trained ranker looks at: for a few real users the history in pictures, the target, weights and cosines."""

from collections.abc import Sequence

import numpy as np

from data.dataset import Dataset
from experiments.charts.plot import Plot
from experiments.charts.xy import Curve, Plane, xy
from experiments.page import Exhibit, Part, Prose, Section
from experiments.report.looked import Looked, look
from experiments.report.neighbours import UNKNOWN, Stored
from experiments.report.pictures import Pictures, bar
from ranker.run_folder import RunFolder
from ranker.simtier import LEVELS

USERS, SHOWN = 4, 8
SAMPLES, BINS, DRAWS = 600, 8, 400


def section(
    run: RunFolder, dataset: Dataset, split: str, stores: Sequence[Stored], pictures: Pictures | None
) -> Section | None:
    """What the run looks at; None where nothing of it can be read or no sample has a history."""
    looked = look(run, dataset, split, SAMPLES)
    if looked is None:
        return None
    name = run.meta()["name"]
    cosines = looked.cosines or {stored.name: _cosines(looked, stored) for stored in stores[:2]}
    parts: list[Part] = [Prose((_about(name, looked, split),))]
    if looked.weights and cosines:
        parts.append(_by_cosine(looked, cosines))
    if looked.weights or cosines:
        parts.append(_users(looked, cosines, pictures))
    return Section("attention", f"What {name} looks at", tuple(parts))


def _about(name: str, looked: Looked, split: str) -> str:
    words = [f"*{name}* over the sequence `{looked.sequence}`, on {split} rows."]
    if looked.weights:
        words.append(f"Weights ({', '.join(looked.weights)}) are shares of a history's total.")
    if looked.cosines:
        words.append("Cosines with the target are the model's own.")
    elif looked.weights:
        words.append("Cosines are of the vectors, which the model did not see.")
    if looked.counted:
        words.append(
            f"SimTier weighs nothing: it counts the cosines of `{looked.counted[0]}` in {LEVELS} equal tiers from "
            "-1 to 1 (and those of 1)."
        )
    return " ".join(words)


def _by_cosine(looked: Looked, cosines: dict[str, np.ndarray]) -> Plot:
    """Weight of a behaviour, relative to an even share, by its cosine with the target."""
    curves = []
    lengths = np.bincount(looked.sample, minlength=len(looked.item))
    for mechanism, weight in looked.weights.items():
        lift = weight * lengths[looked.sample]
        for vectors, cosine in cosines.items():
            if np.isfinite(cosine).any():
                name = mechanism if len(cosines) == 1 else f"{mechanism}, {vectors}"
                curves.append(_curve(name, looked.sample, len(looked.item), cosine, lift))
    note = "1 is an even share of the history. Bins of equally many behaviours; bands: 95 %, samples drawn again."
    plane = Plane("cosine with the target", "weight, relative to an even share", include_y=(1.0,))
    return xy("by-cosine", "Does the weight go to what is alike?", plane, curves, note=note, full=True)


def _curve(name: str, sample: np.ndarray, samples: int, cosine: np.ndarray, lift: np.ndarray) -> Curve:
    """Mean lift by bins of the cosine; sample, cosine, lift (N,)."""
    known = np.isfinite(cosine)
    sample, cosine, lift = sample[known], cosine[known], lift[known]
    edges = np.unique(np.quantile(cosine, np.linspace(0, 1, BINS + 1)))
    bins = max(len(edges) - 1, 1)
    place = np.clip(np.searchsorted(edges, cosine, side="right") - 1, 0, bins - 1)
    counts, sums, places = (np.zeros((samples, bins)) for _ in range(3))
    np.add.at(counts, (sample, place), 1)
    np.add.at(sums, (sample, place), lift)
    np.add.at(places, (sample, place), cosine)
    rng = np.random.default_rng(3)
    weights = rng.multinomial(samples, np.full(samples, 1 / samples), DRAWS)
    with np.errstate(invalid="ignore"):
        drawn = (weights @ sums) / (weights @ counts)
    low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0)
    x, y = places.sum(0) / counts.sum(0), sums.sum(0) / counts.sum(0)
    return Curve(name, x.tolist(), y.tolist(), low.tolist(), high.tolist(), marks=True)


def _cosines(looked: Looked, stored: Stored) -> np.ndarray:
    """(N,) cosine of every behaviour with its target in a store; NaN where one of the two has no vector."""
    mine, target = stored.unit(looked.behaviour), stored.unit(looked.item)
    known = (stored.item_rows[looked.behaviour] != UNKNOWN) & (stored.item_rows[looked.item] != UNKNOWN)[looked.sample]
    return np.where(known, (mine * target[looked.sample]).sum(1), np.nan)


def _users(looked: Looked, cosines: dict[str, np.ndarray], pictures: Pictures | None) -> Exhibit:
    """Of one sample each of a few users the behaviours that weigh most by the last mechanism, else those most alike."""
    names = [*looked.weights, *(f"cosine in {name}" for name in cosines)]
    by = next(reversed(looked.weights), None)
    order = looked.weights[by] if by else np.nan_to_num(next(iter(cosines.values())), nan=-2.0)
    body, rows = "", []
    for sample in _one_a_user(looked.user):
        mine = np.flatnonzero(looked.sample == sample)
        top = np.sort(mine[np.argsort(-order[mine], kind="stable")[:SHOWN]])
        target = int(looked.item[sample])
        did = "was taken" if looked.label[sample] else "was passed by"
        held = f"hold {order[top].sum():.0%} of the weight ({by})" if by else "are those most like the target"
        told = f"predicted {looked.score[sample]:.3f}, {did}; the {len(top)} shown of {len(mine)} behaviours {held}"
        tiles = ""
        for at in top:
            item, below = int(looked.behaviour[at]), ""
            row: list[int | float | None] = [int(looked.user[sample]), target, item]
            for series, (name, weight) in enumerate(looked.weights.items()):
                share = float(weight[at])
                below += bar(name, share / max(float(weight[top].max()), 1e-12), f"{share:.0%}", series)
                row.append(share)
            for series, (name, values) in enumerate(cosines.items(), len(looked.weights)):
                cosine = float(values[at])
                known = bool(np.isfinite(cosine))
                below += bar(f"cosine, {name}", cosine, f"{cosine:.2f}", series) if known else ""
                row.append(round(cosine, 6) if known else None)
            shown = pictures.html(item, below) if pictures else f'<span class="name">item {item}</span>{below}'
            tiles += f"<li>{shown}</li>"
            rows.append(tuple(row))
        card = pictures.html(target) if pictures else f'<span class="name">item {target}</span>'
        heading = f"<h4>User {looked.user[sample]}</h4><p class=note>{told}, oldest first.</p>"
        tiles = f'<ul class="tiles">{tiles}</ul>'
        body += f'<div class="near user"><div class="tile target-tile">{card}</div><div>{heading}{tiles}</div></div>'
    key = "".join(f'<li class="s{i}"><span class="dot"></span>{name}</li>' for i, name in enumerate(names))
    note = "Framed what was shown, then what the user had done before."
    columns = ("user", "target item", "behaviour item", *names)
    return Exhibit("users", "A few users", note, f'<ul class="key">{key}</ul>{body}', columns, tuple(rows))


def _one_a_user(user: np.ndarray) -> np.ndarray:
    """The first sample of each of the first USERS users."""
    return np.sort(np.unique(user, return_index=True)[1])[:USERS]
