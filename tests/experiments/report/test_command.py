"""`moon report`: what is on the page, that it is whole without a network, and that it comes out the same again."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

import moon
from data.errors import InputError
from experiments.page import Section, Table, alone, data
from experiments.page_style import DARK, LIGHT
from experiments.report.command import report
from experiments.report.sources import Sources
from tests.experiments.report.conftest import RESULTS, make


class Outline(HTMLParser):
    """Headings, anchors, pictures and figures of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings: list[int] = []
        self.ids: list[str] = []
        self.labels: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        self.ids += [str(found["id"])] if "id" in found else []
        self.labels += [str(found["aria-labelledby"])] if "aria-labelledby" in found else []
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))


def test_every_plot_has_words_a_table_and_its_figures_beside_the_page(page: Path):
    text, outline = page.read_text(), Outline(page.read_text())
    found = json.loads(page.with_suffix(".json").read_text())
    figures = [attrs for tag, attrs in outline.tags if tag == "figure"]
    plots = [attrs for _, attrs in outline.tags if attrs.get("role") == "img"]
    assert len(figures) == len(plots) > 12
    assert all(len(str(attrs["aria-label"])) > 30 for attrs in plots)
    parts = {f"{section}-{name}": part for section, s in found.items() for name, part in s["parts"].items()}
    for attrs in figures:
        name = str(attrs["aria-labelledby"]).removesuffix("-title")
        assert parts[name]["rows"] and len(parts[name]["rows"][0]) == len(parts[name]["columns"])
    assert text.count("<summary>Figures as a table</summary>") == len(figures)
    pictures = [attrs for tag, attrs in outline.tags if tag == "img"]
    assert len(pictures) > 30 and all(attrs["alt"] for attrs in pictures)
    looks = [section["parts"]["users"] for name, section in found.items() if name.startswith("attention")]
    assert len(looks) == 2 and any("CUBE" in look["columns"] for look in looks)
    for look in looks:
        assert len({row[0] for row in look["rows"]}) == 4 and all(0 <= row[3] <= 1 for row in look["rows"])


def test_the_page_is_sound_for_keyboards_and_screen_readers(page: Path):
    outline = Outline(page.read_text())
    assert outline.headings.count(1) == 1 and outline.headings[0] == 1
    assert all(b <= a + 1 for a, b in zip(outline.headings, outline.headings[1:], strict=False))
    assert len(outline.ids) == len(set(outline.ids)) and set(outline.labels) <= set(outline.ids)
    links = [str(attrs["href"]) for tag, attrs in outline.tags if tag == "a"]
    assert links and {link[1:] for link in links} <= set(outline.ids)
    scrolling = [attrs for _, attrs in outline.tags if str(attrs.get("class", "")).startswith("scroll")]
    assert scrolling and all(attrs["tabindex"] == "0" and attrs["aria-label"] for attrs in scrolling)


def test_nothing_comes_from_outside(page: Path):
    text = page.read_text()
    assert "<script" not in text and "@import" not in text and "url(" not in text
    assert not re.search(r'(?:src|href)=(?!"#|"data:)', text)


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_can_be_told_from_the_ground(palette: str):
    colours = dict(part.split(":") for part in palette.replace("\n", "").split(";"))

    def luminance(colour: str) -> float:
        parts = [int(colours[colour][i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for name in ("--ink", "--dim", "--focus", *(f"--s{i}" for i in range(6))):
        for ground in ("--card", "--bg"):
            high, low = sorted((luminance(name), luminance(ground)), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, (name, ground)  # WCAG 2.2, 1.4.3: text


def test_the_same_sources_give_the_same_bytes_but_for_the_date(page: Path, results: Path, market_root: Path):
    again = results.parent / "again" / "page.html"
    assert make(results, market_root / "run", "--out", again, "--title", "Everything") == 0
    assert again.with_suffix(".json").read_bytes() == page.with_suffix(".json").read_bytes()
    date = re.compile(r"Made on \d{4}-\d\d-\d\d\.")
    assert date.search(page.read_text())
    assert date.sub("", again.read_text()) == date.sub("", page.read_text())


def test_the_summary_says_what_the_figures_say(page: Path):
    found = json.loads(page.with_suffix(".json").read_text())
    said = " ".join(found["summary"]["findings"])
    gain = {row[1]: row for row in found["rankers"]["parts"]["gains"]["rows"]}["AUC"]
    assert f"{gain[2]:+.4f}".replace("-", "\u2212") in said
    ablation = json.loads((RESULTS / "movielens_ablation.json").read_text())
    gains = [g["content_gain"]["rows"]["auc_by_user"]["delta"] for g in ablation["groups"] if g["content_gain"]]
    assert f"{max(gains):+.4f}" in said


def test_several_studies_of_a_kind_are_told_apart(tmp_path: Path):
    names = ["movielens_exchange_rate.json", "movielens_scaling.json", "marketplace_exchange_rate.json"]
    again = tmp_path / "again" / "findings.json"
    again.parent.mkdir()
    shutil.copy(RESULTS / names[0], again)
    sections = report(Sources.of([*(RESULTS / name for name in names), again]), None, 100)
    assert [(s.name, s.title) for s in sections[1:-1]] == [
        ("exchange", "Exchange rate: exchange_movielens (movielens_exchange_rate)"),
        ("exchange-2", "Exchange rate: exchange_marketplace"),
        ("exchange-3", "Exchange rate: exchange_movielens (again)"),
        ("scaling", "Scaling: scaling_movielens"),
    ]
    found = data(sections)
    assert found["summary"]["findings"] == [line for s in sections[1:] for line in s.said]
    assert {card.of for card in sections[0].cards} == {s.title for s in sections if s.name.startswith("exchange")}


@pytest.mark.parametrize(
    ("text", "out"), [("+0.1 [+0.0, +0.2]", True), ("+0.0 [+0.0, +0.0]", False), ("-0.1 [-0.2, +0.0]", False)]
)
def test_a_gain_stands_out_where_its_interval_leaves_out_zero(text: str, out: bool):
    page = alone(Section("x", "X", (Table("Gains", "", ["a", "b"], [["row", text]]),)))
    assert ("class=found" in page) == out


def test_kinds_are_told_apart_and_what_is_none_is_refused(results: Path, market_root: Path, tmp_path: Path):
    found = Sources.of([results, market_root, RESULTS])
    assert [p.name for p in found.runs] == ["cube", "plain", "run"] and [p.name for p in found.stores] == ["random"]
    assert [p.name for p in found.datasets] == ["data"]
    assert {"ablation", "lift"} <= set(found.found)
    with pytest.raises(InputError, match="nothing to report on"):
        Sources.of([tmp_path])
    with pytest.raises(InputError, match="no such file"):
        Sources.of([tmp_path / "gone"])
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        Sources.of([tmp_path / "broken.json"])


def test_mistakes_are_one_line(results: Path, market_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = results / "runs" / "plain"
    for words, told in (
        (["--out", tmp_path / "page.pdf"], "ends in .html"),
        (["--draws", 10], "at least 100 draws"),
        (["--against", "nobody"], "no finished run has this recipe (there are: plain)"),
    ):
        assert moon.main(["report", str(run), "--out", str(tmp_path / "x.html"), *map(str, words)]) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    meta = json.loads((copy / "meta.json").read_text())
    meta["dataset"]["path"] = str(tmp_path / "gone")
    (copy / "meta.json").write_text(json.dumps(meta))
    assert moon.main(["report", str(copy), "--out", str(tmp_path / "x.html")]) == 2
    assert "its dataset is not at" in capsys.readouterr().err
