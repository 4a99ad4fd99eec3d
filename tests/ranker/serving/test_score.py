"""moon score: a file's rows in order, streamed in parts, resumed where it was cut off."""

import json

import numpy as np
import polars as pl
import pytest

import moon
from data.dataset import Dataset
from data.errors import InputError
from ranker.exporting.recorded import recorded_requests
from ranker.serving import score
from ranker.serving.model import Model
from ranker.serving.requests import requests_of


@pytest.fixture
def model(exported):
    return Model(exported.package)


@pytest.fixture
def file(exported, model, tmp_path):
    frame = recorded_requests(Dataset(exported.data), "train", model.package.signature, slice(0, 700))
    frame.with_columns(extra=pl.lit("kept out")).write_parquet(tmp_path / "rows.parquet", row_group_size=90)
    return tmp_path / "rows.parquet"


@pytest.fixture
def expected(model, file):
    return model.score(requests_of(model.package.signature, pl.read_parquet(file))).probability


@pytest.mark.parametrize("part", [64, 100, 1 << 16])
def test_scores_are_in_the_file_s_order_whatever_the_parts(model, file, expected, part, tmp_path, monkeypatch):
    monkeypatch.setattr(score, "PART_ROWS", part)
    monkeypatch.setattr(score, "BATCH_ROWS", 40)
    found = score.score_file(model, file, tmp_path / "out.parquet")
    frame = pl.read_parquet(tmp_path / "out.parquet")
    assert frame["row"].to_list() == list(range(700)) and found["rows"] == 700
    assert abs(frame["score"].to_numpy() - expected).max() < 1e-6
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.parquet", "rows.parquet"]


def test_it_goes_on_where_it_was_cut_off(model, file, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(score, "PART_ROWS", 100)
    written = []

    def cut_off(path, frame):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, frame)

    write = score.write_parquet
    monkeypatch.setattr(score, "write_parquet", cut_off)
    with pytest.raises(KeyboardInterrupt):
        score.score_file(model, file, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()
    monkeypatch.setattr(score, "write_parquet", write)
    found = score.score_file(model, file, tmp_path / "out.parquet")
    assert found["resumed_rows"] == 300 and found["rows"] == 700
    assert abs(pl.read_parquet(tmp_path / "out.parquet")["score"].to_numpy() - expected).max() < 1e-6


def test_a_batch_has_rows_of_like_history_lengths(model, file, tmp_path, monkeypatch):
    """A batch is padded to its longest history, so none begins with a shorter one than the batch before ended with."""
    monkeypatch.setattr(score, "BATCH_ROWS", 40)
    taken, inner = [], model.score

    def watched(requests):
        taken.append(requests.behaviours)
        return inner(requests)

    monkeypatch.setattr(model, "score", watched)
    score.score_file(model, file, tmp_path / "out.parquet")
    lengths = np.concatenate(taken)
    assert len(taken) == 18 and lengths.max() > lengths.min() and (np.diff(lengths) >= 0).all()


def test_a_wrong_row_is_named(model, file, tmp_path):
    frame, actions = pl.read_parquet(file), pl.col("history.action")
    for wrong, reason in (
        (frame.with_columns(actions.list.eval(pl.lit("bought"))), "'bought' is no action; actions: "),
        (frame.with_columns(actions.list.head(0)), r"user .* at ts \d+: history.action has 0 values, history.item"),
    ):
        wrong.write_parquet(tmp_path / "wrong.parquet")
        with pytest.raises(InputError, match=rf"wrong.parquet: in rows 0\.\.699: .*{reason}"):
            score.score_file(model, tmp_path / "wrong.parquet", tmp_path / "out.parquet")


def test_parts_of_another_file_are_not_used(model, file, tmp_path, monkeypatch):
    monkeypatch.setattr(score, "PART_ROWS", 100)
    out = tmp_path / "out.parquet"
    score._same_work(tmp_path / ".out.parquet.parts", model, file, 1)
    pl.DataFrame({"row": [0], "score": [9.0]}).write_parquet(tmp_path / ".out.parquet.parts" / "00000000.parquet")
    assert score.score_file(model, file, out)["resumed_rows"] == 0
    assert pl.read_parquet(out)["score"].max() < 1


def test_the_command_and_its_mistakes(exported, file, tmp_path, capsys):
    out = tmp_path / "s.parquet"
    words = ["score", str(exported.package), str(file), "--out", str(out), "--json", str(tmp_path / "f.json")]
    assert moon.main(words) == 0
    assert json.loads((tmp_path / "f.json").read_text())["rows"] == len(pl.read_parquet(out)) == 700
    assert "700 rows by export version 1" in capsys.readouterr().out

    def line(file):
        assert moon.main(["score", str(exported.package), str(file), "--out", str(out)]) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    assert "no such file" in line(tmp_path / "none.parquet")
    (tmp_path / "cut.parquet").write_bytes(file.read_bytes()[:300])
    assert "not a readable parquet file" in line(tmp_path / "cut.parquet")
    pl.read_parquet(file).drop("ts").write_parquet(tmp_path / "less.parquet")
    assert "less.parquet: in rows 0..699: no column 'ts'" in line(tmp_path / "less.parquet")
