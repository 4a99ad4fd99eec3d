"""`moon demo` from nothing to the report, cut off on the way; a demo of other settings is refused."""

import json

import pytest
import yaml

import moon
from data.config import load_config
from data.errors import InputError
from experiments import demo
from experiments.demo import CONFIGS, Demo
from experiments.demo_config import DemoConfig
from experiments.demo_table import learned

MARKET = {"days": 6, "items": 200, "users": 150, "sessions_per_day": 250, "image_size": 32}
SMALL = {
    "market": MARKET,
    "pretrain": {
        "recipe": "encoder/marketplace_pretrain",
        "set": ["train.epochs=1", "encoder.image_pixels=1024", "judged.test_items=16", "judged.valid_items=16"],
    },
    "posttrain": {
        "recipe": "encoder/marketplace_a",
        "set": ["train.epochs=1", "train.steps_per_epoch=3", "train.batch_size=16", "views.count=1"],
    },
    "id_only": {"recipe": "marketplace_din", "set": ["train.batch_size=256", "train.epochs=1"]},
    "moon": {"recipe": "marketplace_cube", "set": ["train.batch_size=256", "train.epochs=1"]},
    "days": 1,
}
ENCODER, RANKERS = ["pretrain", "posttrain", "embed"], ["id_only", "moon", "moon_shuffled"]
STEPS = ["prepare", "inspect", *ENCODER, *RANKERS, "compare", "content", "lift", "export", "report"]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


def test_the_demo_goes_on_where_it_was_and_ends_in_a_report_and_a_table(config, tmp_path, monkeypatch, capsys):
    words = ["demo", "--out", str(tmp_path / "out"), "--config", str(config), "--json", str(tmp_path / "x.json")]
    real, done = moon.main, []

    def cut_off(argv):
        if argv[0] == "compare":
            return 1
        done.append(argv)
        return real(argv)

    monkeypatch.setattr(demo.moon, "main", cut_off)
    assert real(words) == 1 and "goes on from here" in capsys.readouterr().err
    assert [argv[0] for argv in done] == ["prepare", "inspect", *["encoder"] * 3, *["train"] * 3]
    monkeypatch.setattr(demo.moon, "main", real)
    assert real(words) == 0
    said = capsys.readouterr().out
    assert said.count("(done already)") == 8
    out = tmp_path / "out"
    assert sorted(path.stem for path in (out / "steps").iterdir()) == sorted(STEPS)
    assert str(out / "report.html") in said.strip().splitlines()[-1] and (out / "report.html").is_file()
    rows = json.loads((tmp_path / "x.json").read_text())
    assert json.loads((out / "learned.json").read_text()) == rows
    lift = json.loads((out / "lift" / "lift.json").read_text())["arms"]["moon"]["metrics"]["true_ctr"]["lift"]
    answers = {row["question"]: row["answer"] for row in rows}
    assert answers["online, 1 days: true CTR over ids"].startswith(f"{lift['value']:+.1%} [")
    assert all(row["question"] in said and row["answer"] in said for row in rows)
    assert "the same within a search, whose ads compete online" in answers
    assert any("gauc" in question.lower() for question in answers) and any(
        "HR@10" in answer for answer in answers.values()
    )


def test_a_verdict_follows_from_its_interval(tmp_path):
    from experiments.demo_table import _difference

    assert _difference("x", {"value": 0.1, "low": 0.05, "high": 0.2}, "{:+.1%}")["verdict"] == "established"
    assert "holds zero" in _difference("x", {"value": 0.1, "low": -0.05, "high": 0.2}, "{:+.1%}")["verdict"]
    assert _difference("x", {"value": 0.1, "low": None, "high": None}, "{:+.1%}")["verdict"] == "no interval"
    with pytest.raises(FileNotFoundError):
        learned(tmp_path, load_config(CONFIGS / "demo.yaml", DemoConfig))


def test_another_demo_or_other_files_in_the_way_are_one_line(tmp_path, capsys):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("x")
    assert moon.main(["demo", "--out", str(tmp_path / "taken")]) == 2
    assert "holds something else; give an empty or a new folder" in capsys.readouterr().err
    Demo(load_config(CONFIGS / "demo.yaml", DemoConfig), tmp_path / "out")
    assert moon.main(["demo", "--out", str(tmp_path / "out"), "--set", "days=2"]) == 2
    assert "a demo of other settings; give another --out" in capsys.readouterr().err


def test_what_a_killed_demo_left_half_written_is_no_obstacle(tmp_path, monkeypatch):
    out, config = tmp_path / "out", load_config(CONFIGS / "demo.yaml", DemoConfig)
    out.mkdir()
    (out / ".demo.yaml.17").write_text("market:")
    begun = Demo(config, out)
    (out / ".logs.building-17" / "impressions").mkdir(parents=True)
    monkeypatch.setattr(Demo, "_steps", lambda self: None)
    begun.run()
    assert sorted(path.name for path in out.iterdir()) == [".lock", "demo.yaml"]


def test_two_demos_in_one_folder_are_refused(tmp_path, monkeypatch):
    config = load_config(CONFIGS / "demo.yaml", DemoConfig)
    first, second = Demo(config, tmp_path), Demo(config, tmp_path)
    monkeypatch.setattr(Demo, "_steps", lambda self: second.run())
    with pytest.raises(InputError, match="another moon demo is at work there"):
        first.run()
