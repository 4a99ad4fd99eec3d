"""`moon report PATH... --out report.html`: one page from any set of runs, studies, lifts, exports, encoders, stores.

The page needs no network. Its figures stand in a JSON beside it; the same sources give the same bytes but for the date.
"""

import argparse
import datetime
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from data.dataset import Dataset
from data.errors import InputError
from data.files import write_json, write_text
from data.host import keep_freed_memory
from experiments.page import Card, Findings, Prose, Section, data, document
from experiments.report import attention, encoders, neighbours, provenance, rankers
from experiments.report.ablations import ablation_section
from experiments.report.lifts import lift_section, ope_section
from experiments.report.looked import mechanisms
from experiments.report.neighbours import Stored
from experiments.report.pictures import Pictures
from experiments.report.rankers import Rankers
from experiments.report.shares import shares_section
from experiments.report.sources import Sources, place
from experiments.report.studies import study_section
from ranker.run_folder import RunFolder

# What has its figures in one JSON file, in the page's order, with what makes a section of them.
FIGURES = {
    "ablation": ablation_section,
    "study": study_section,
    "lift": lift_section,
    "shares": shares_section,
    "ope": ope_section,
    "recall": encoders.recall_section,
}
CARDS = 6  # key figures in the summary
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
        for line in section.said:
            print(f"{section.title}: {line.replace('*', '')}")
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
    stores = {key: neighbours.opened(_stores(sources, runs), dataset) for key, dataset in datasets.items()}
    pictures = {key: _pictures(dataset) for key, dataset in datasets.items()}
    by_data: dict[str, list[RunFolder]] = {}
    for run in runs:
        by_data.setdefault(run.meta()["dataset"]["fingerprint"], []).append(run)
    chosen = against if against and len(by_data) == 1 else None
    made: list[tuple[Section, str]] = []  # each with where it comes from, for titles that are alike
    looks: list[tuple[Section, str]] = []
    for key, mine in by_data.items():
        if key not in datasets:
            path = mine[0].meta()["dataset"]["path"]
            raise InputError(f"{mine[0].root}: its dataset is not at {path} any more; give its folder as well")
        found = rankers.gather(mine, chosen, draws)
        if found is not None:
            where = f"{found.source}, {key[:6]}"
            made += [(section, where) for section in rankers.sections(found)]
            more = _attention(found, datasets[key], stores[key], pictures[key])
            looks += [(section, where) for section in more]
    for kind, make in FIGURES.items():
        made += [(make(found), place(path)) for path, found in sources.figures(kind)]
    if sources.encoder_runs:
        made.append((encoders.runs_section(sources.encoder_runs), ""))
    for key in (key for key in datasets if stores[key]):
        where = f"{datasets[key].meta['source']}, {key[:6]}"
        made.append((neighbours.section(stores[key], datasets[key], pictures[key]), where))
    made += looks
    placed = {stored.version.folder.parent for mine in stores.values() for stored in mine}
    lost = [path for path in sources.stores if path not in placed]
    if lost:
        made.append((neighbours.without_dataset(lost), ""))
    if sources.figures("export"):
        made.append((provenance.exports_section(sources.figures("export")), ""))
    made.append((provenance.section(sources, runs, list(datasets.values())), ""))
    apart = _apart(made)
    return [_summary(apart), *(replace(section, cards=()) for section in apart)]


def _apart(made: Sequence[tuple[Section, str]]) -> list[Section]:
    """The sections with anchors of their own, and with where they come from behind titles that are alike."""
    names: Counter[str] = Counter()
    titles = Counter(section.title for section, _ in made)
    told = []
    for section, where in made:
        names[section.name] += 1
        number = names[section.name]
        name = section.name if number == 1 else f"{section.name}-{number}"
        title = section.title if titles[section.title] == 1 else f"{section.title} ({where})"
        told.append(replace(section, name=name, title=title))
    return told


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


def _attention(found: Rankers, dataset: Dataset, stores: Sequence[Stored], pictures: Pictures | None) -> list[Section]:
    """Of the best recipe of each set of readable mechanisms; where its run cannot be loaded any more, the reason."""
    sections: list[Section] = []
    seen: list[dict[str, list[str]]] = []
    for name in sorted(found.runs, key=lambda n: -found.facts[n]["auc"]["mean"]):
        run = found.runs[name][0]
        readable = mechanisms(run)
        if not readable or readable in seen or len(sections) == LOOKS or not run.checkpoints.is_dir():
            continue
        seen.append(readable)
        try:
            made = attention.section(run, dataset, found.split, stores, pictures)
        except InputError as reason:
            made = Section("attention", f"What {name} looks at", (Prose((f"Left out: {reason}.",)),))
        sections += [made] if made else []
    return sections


def _summary(made: Sequence[Section]) -> Section:
    """The findings of all sections, each with a link, and key figures of them in turn."""
    parts = tuple(Findings(section.name, section.title, section.said) for section in made if section.said)
    cards: list[Card] = []
    able = [section for section in made if section.cards]
    groups = [[replace(card, of=s.title if len(able) > 1 else "") for card in s.cards] for s in able]
    while any(groups) and len(cards) < CARDS:
        for group in groups:
            if group and len(cards) < CARDS:
                cards.append(group.pop(0))
    said = () if parts or cards else (f"{len(made)} sections; nothing here is a comparison.",)
    return Section("summary", "Summary", parts, said, tuple(cards))
