"""`moon report PATH... --out report.html`: one page from any set of runs, studies, lifts, exports, encoders, stores.

The page needs no network. Its figures stand in a JSON beside it; the same sources give the same bytes but for the date.
"""

import argparse
import datetime
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from data.dataset import Dataset
from data.errors import InputError
from data.files import write_json, write_text
from data.host import keep_freed_memory
from experiments.page import Card, Prose, Section, data, document
from experiments.report import attention, encoders, neighbours, provenance, rankers
from experiments.report.ablations import ablation_section
from experiments.report.lifts import lift_section, ope_section
from experiments.report.looked import mechanisms
from experiments.report.neighbours import Stored
from experiments.report.pictures import Pictures
from experiments.report.rankers import Rankers
from experiments.report.shares import shares_section
from experiments.report.sources import Sources
from experiments.report.studies import study_section
from ranker.run_folder import RunFolder

CARDS = 4  # key figures in the summary
LOOKS = 3  # recipes of a dataset that are looked into


def main(argv: list[str]) -> int:
    """The command."""
    parser = argparse.ArgumentParser("moon report", description="One self-contained page from any set of results.")
    parser.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="results, or folders that hold some")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the page (default: report.html)")
    parser.add_argument("--title", help="heading of the page")
    parser.add_argument("--against", metavar="RECIPE", help="the recipe that the others are held against")
    parser.add_argument("--draws", type=int, default=1000, help="bootstrap draws over users (default 1000)")
    parser.add_argument("--json", type=Path, help="write the page's figures here (default: beside the page)")
    args = parser.parse_args(argv)
    if args.draws < 100:
        raise InputError(f"--draws {args.draws}: an interval needs at least 100 draws")
    if args.out.suffix not in (".html", ".htm"):
        raise InputError(f"--out {args.out}: give a file that ends in .html")
    keep_freed_memory()
    sections = report(Sources.of(args.paths), args.against, args.draws)
    beside = args.json or args.out.with_suffix(".json")
    write_page(args.out, beside, args.title or "What was measured", sections)
    for section in sections:
        for line in section.said if section.name == "summary" else ():
            print(line.replace("*", ""))
    print(f"{args.out}: the report; its figures: {beside}")
    return 0


def write_page(page: Path, beside: Path, title: str, sections: Sequence[Section]) -> None:
    """Write the page and its figures."""
    many = f"{len(sections)} sections; the" if len(sections) > 1 else "The"
    told = f"{many} figures of every plot are in `{beside.name}`."
    today = datetime.date.today().isoformat()
    write_json(beside, data(sections))
    write_text(page, document(title, told, sections, f"Made on {today}."))


def report(sources: Sources, against: str | None, draws: int) -> list[Section]:
    """The sections of a page about the sources, the summary first.

    Raises InputError for sources that do not fit together.
    """
    runs = [RunFolder(path) for path in sources.runs]
    datasets = _datasets(sources, runs)
    stores = {
        key: [Stored.of(p, d) for p in _stores(sources, runs) if neighbours.belongs(p, d)]
        for key, d in datasets.items()
    }
    pictures = {key: _pictures(dataset) for key, dataset in datasets.items()}
    made: list[Section] = []
    looks: list[Section] = []
    by_data: dict[str, list[RunFolder]] = {}
    for run in runs:
        by_data.setdefault(run.meta()["dataset"]["fingerprint"], []).append(run)
    chosen = against if against and len(by_data) == 1 else None
    for number, (key, mine) in enumerate(by_data.items()):
        if key not in datasets:
            path = mine[0].meta()["dataset"]["path"]
            raise InputError(f"{mine[0].root}: its dataset is not at {path} any more; give its folder as well")
        found = rankers.gather(mine, chosen, draws)
        if found is not None:
            made += rankers.sections(found, number)
            looks += _attention(found, datasets[key], stores[key], pictures[key], len(looks))
    for number, (_, found) in enumerate(sources.figures("ablation")):
        made.append(ablation_section(found, _mark(number)))
    seen: dict[str, int] = {}
    for _, found in sources.figures("study"):
        number = seen.setdefault(found["study"], 0)
        made.append(study_section(found, _mark(number)))
        seen[found["study"]] += 1
    for number, (_, found) in enumerate(sources.figures("lift")):
        made.append(lift_section(found, _mark(number)))
    for number, (_, found) in enumerate(sources.figures("shares")):
        made.append(shares_section(found, _mark(number)))
    for number, (_, found) in enumerate(sources.figures("ope")):
        made.append(ope_section(found, _mark(number)))
    for number, (_, found) in enumerate(sources.figures("recall")):
        made.append(encoders.recall_section(found, _mark(number)))
    if sources.encoder_runs:
        made.append(encoders.runs_section(sources.encoder_runs))
    for number, key in enumerate(key for key in datasets if stores[key]):
        made.append(neighbours.section(stores[key], datasets[key], pictures[key], number))
    made += looks
    placed = {stored.version.folder.parent for mine in stores.values() for stored in mine}
    lost = [path for path in sources.stores if path not in placed]
    if lost:
        made.append(neighbours.without_dataset(lost))
    if sources.figures("export"):
        made.append(provenance.exports_section(sources.figures("export")))
    made.append(provenance.section(sources, runs, list(datasets.values())))
    return [_summary(made), *(replace(section, cards=()) for section in made)]


def _mark(number: int) -> str:
    return "" if number == 0 else f"-{number + 1}"


def _datasets(sources: Sources, runs: Sequence[RunFolder]) -> dict[str, Dataset]:
    """By fingerprint: those that were given, and those of the runs where they are still there."""
    found = {dataset.fingerprint: dataset for dataset in map(Dataset, sources.datasets)}
    for run in runs:
        path, fingerprint = Path(run.meta()["dataset"]["path"]), run.meta()["dataset"]["fingerprint"]
        if fingerprint not in found and (path / "dataset.json").is_file() and Dataset(path).fingerprint == fingerprint:
            found[fingerprint] = Dataset(path)
    return found


def _stores(sources: Sources, runs: Sequence[RunFolder]) -> list[Path]:
    """Those that were given, and those of the runs where they are still there."""
    found = list(sources.stores)
    for run in runs:
        for facts in run.meta().get("stores", {}).values():
            path = Path(facts["path"]).resolve()
            if path not in found and next(path.glob("v*/meta.json"), None):
                found.append(path)
    return found


def _pictures(dataset: Dataset) -> Pictures | None:
    """The dataset's pictures; None where it has none, or they are gone."""
    if not any(Path(store["path"]).exists() for store in dataset.meta["images"]):
        return None
    return Pictures(dataset)


def _attention(
    found: Rankers, dataset: Dataset, stores: Sequence[Stored], pictures: Pictures | None, before: int
) -> list[Section]:
    """Of the best recipe of each set of readable mechanisms; where its run cannot be loaded any more, the reason."""
    sections: list[Section] = []
    seen: list[dict[str, list[str]]] = []
    for name in sorted(found.runs, key=lambda n: -found.facts[n]["auc"]["mean"]):
        run = found.runs[name][0]
        readable = mechanisms(run)
        if not readable or readable in seen or len(sections) == LOOKS or not run.checkpoints.is_dir():
            continue
        seen.append(readable)
        mark = _mark(before + len(sections))
        try:
            made = attention.section(run, dataset, found.split, stores, pictures, mark)
        except InputError as reason:
            made = Section(f"attention{mark}", f"What {name} looks at", (Prose((f"Left out: {reason}.",)),))
        sections += [made] if made else []
    return sections


def _summary(made: Sequence[Section]) -> Section:
    """The findings and key figures of all sections."""
    said = tuple(line for section in made for line in section.said)
    cards: list[Card] = []
    groups = [list(section.cards) for section in made if section.cards]
    while any(groups) and len(cards) < CARDS + 2:
        for group in groups:
            if group and len(cards) < CARDS + 2:
                cards.append(group.pop(0))
    if not said and not cards:
        said = (f"{len(made)} sections; nothing here is a comparison.",)
    return Section("summary", "Summary", (), said, tuple(cards))
