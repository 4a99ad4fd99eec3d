"""Peak memory of preparing, of the loader and of training, measured in a process of its own; also a command:

python -m tests.data.test_memory SHARED    MovieLens once and ten times (same users and items; new users)
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl

from data.prepare import prepare
from data.sources.movielens_posters import MovielensPosters

ROOT = Path(__file__).parents[2]

CHILD = """
import json, sys, time
from pathlib import Path

def memory(field):
    return int(Path("/proc/self/status").read_text().split(field + ":")[1].split()[0]) / 1024

def peak():  # ru_maxrss would start at the parent's size
    return memory("VmHWM")

what, source, out, pieces = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
if pieces:
    import data.source, data.spill
    data.source.CHUNK_ROWS = data.spill.BUCKET_ROWS = pieces
if what == "prepare":
    from data.prepare import prepare
    from data.sources.movielens_posters import MovielensPosters
    start = peak()
    began = time.monotonic()
    rows = prepare(MovielensPosters(source), out)["counts"]["behaviors"]
elif what == "train":
    import moon
    import ranker.train
    from data.dataset import Dataset
    from features import loader
    loader.WINDOW_ROWS = pieces or loader.WINDOW_ROWS
    start = peak()
    began = time.monotonic()
    recipe = ["experiments/configs/movielens_mean.yaml", "--set", "train.epochs=1", "--set", "train.threads=1"]
    assert moon.main(["train", *recipe, "--data", str(source), "--out", str(out)]) == 0
    rows = Dataset(source).meta["counts"]["train"]
else:
    from data.dataset import Dataset
    from features.encoder import FeatureEncoder
    from features import loader
    from features.samples import SampleEncoder
    from features.spec import FeatureSpec
    spec = FeatureSpec.model_validate(json.loads(sys.argv[5]))
    loader.WINDOW_ROWS = pieces or loader.WINDOW_ROWS
    start = peak()
    dataset = Dataset(source)
    samples = SampleEncoder(FeatureEncoder.fit(spec, dataset), dataset)
    began = time.monotonic()
    rows = sum(len(batch) for batch in loader.Loader(samples, "train", 1024, shuffle=True).epoch())
print(json.dumps({"rows": rows, "rows_per_second": rows / (time.monotonic() - began),
                  "start_mib": start, "peak_mib": peak(), "own_mib_at_end": memory("RssAnon")}))
"""

LATER = 7_001

SPEC = {
    "features": [
        {"kind": "id", "name": "user", "column": "user"},
        {"kind": "id", "name": "item", "column": "item"},
        {"kind": "ids", "name": "genres", "column": "item.genres"},
        {"kind": "dense", "name": "seen", "column": "item_impressions", "transform": "log1p"},
    ],
    "sequences": [{"name": "liked", "length": 50, "actions": ["liked"], "fields": ["item", "genres"]}],
}


def measured(what: str, source: Path, out: Path, pieces: int = 0) -> dict[str, float]:
    """Rows, rows a second and peak resident memory (MiB) of `prepare`, of an epoch of the `loader` or of `train`.

    `pieces`: rows of a chunk, bucket and window (0: as in production). `own_mib_at_end` leaves out mapped files.
    """
    settings = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    arguments = [sys.executable, "-c", CHILD, what, str(source), str(out), str(pieces), json.dumps(SPEC)]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True, cwd=ROOT, env=os.environ | settings)
    return json.loads(done.stdout.splitlines()[-1])


def replicate(source: Path, target: Path, times: int, *, new_users: bool, users: int | None = None) -> Path:
    """The log `times` over, as users of their own or as the same users rating again, LATER seconds after the last copy.

    `users`: take the first so many only.
    """
    target.mkdir(parents=True)
    (target / "items.parquet").symlink_to((source / "items.parquet").resolve())
    log = pl.scan_parquet(source / "ratings.parquet")
    log = log if users is None else log.filter(pl.col("user_id").rank("dense") <= users)
    shift = log.select(pl.col("user_id").max() + 1).collect().item() if new_users else 0
    later = 0 if new_users else LATER
    copies = [log.with_columns(pl.col("user_id") + k * shift, pl.col("ts") + k * later) for k in range(times)]
    pl.concat(copies).sink_parquet(target / "ratings.parquet", row_group_size=1 << 17)
    return target


def test_memory_does_not_grow_with_the_log(shared, tmp_path):
    """Five times the rows of the same users and items, in pieces of 131,072 rows."""
    peaks = {"prepare": [], "loader": []}
    for times in (1, 5):
        raw, out = tmp_path / f"raw-{times}", tmp_path / f"out-{times}"
        replicate(shared / "datasets" / "movielens_posters", raw, times, new_users=False)
        for what, source in (("prepare", raw), ("loader", out)):
            found = measured(what, source, out, pieces=1 << 17)
            assert found["rows"] > 240_000 * times
            peaks[what].append(found["peak_mib"])
    for what, (once, often) in peaks.items():
        assert often < once * 1.15 + 30, f"{what}: peak {once:.0f} MiB, {often:.0f} MiB with five times the rows"


def test_memory_of_training_does_not_grow_with_the_log(shared, tmp_path):
    """Two hundred users and ten times as many, in windows of 8,192 rows."""
    rows, peaks = [], []
    for times in (1, 10):
        raw, out = tmp_path / f"raw-{times}", tmp_path / f"out-{times}"
        replicate(shared / "datasets" / "movielens_posters", raw, times, new_users=True, users=200)
        prepare(MovielensPosters(raw), out)
        found = measured("train", out, tmp_path / f"run-{times}", pieces=1 << 13)
        rows.append(found["rows"])
        peaks.append(found["peak_mib"])
    assert 10_000 < rows[0] == rows[1] / 10
    assert peaks[1] < peaks[0] * 1.15 + 30, f"peak {peaks[0]:.0f} MiB, {peaks[1]:.0f} MiB with ten times the rows"


def main(shared: Path, scratch: Path) -> None:
    """Print the figures for the log once, ten times (same users) and ten times (new users)."""
    for name, times, new_users in (("x1", 1, False), ("x10, same users", 10, False), ("x10, new users", 10, True)):
        raw = replicate(shared / "datasets" / "movielens_posters", scratch / name / "raw", times, new_users=new_users)
        data = scratch / name / "data"
        for what, source, out in (
            ("prepare", raw, data),
            ("loader", data, data),
            ("train", data, scratch / name / "run"),
        ):
            print(f"{name:<16} {what:<8} {json.dumps(measured(what, source, out))}", flush=True)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        main(Path(sys.argv[1]), Path(folder))
