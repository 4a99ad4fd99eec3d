"""Figures of a bench: printed, written as JSON with the machine they are of, compared with those of another time."""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from data.errors import InputError
from data.files import write_json
from data.host import git_commit, peak_rss_bytes

LOWER_IS_BETTER = ("seconds", "_ms", "_share_waiting", "peak_")
WITHOUT_DIRECTION = ("rows", "bytes", "batch", "behaviours", "distinct")


def options(parser: argparse.ArgumentParser) -> None:
    """What every bench takes."""
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the compute")
    parser.add_argument("--json", type=Path, help="write the figures here; later the --baseline of another run")
    parser.add_argument("--baseline", type=Path, help="figures of this bench on this machine, to compare with")


def machine() -> dict[str, Any]:
    """What the figures depend on beside the code."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        names = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")]
        cpu = names[0].split(":")[1].strip() if names else cpu
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": cpu, "cores": os.cpu_count(), "gpu": gpu, "torch": torch.__version__}


def device() -> torch.device:
    """The GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds(work: Callable[[], Any], repeats: int = 3) -> float:
    """Fastest of `repeats` timings after one that warms up."""
    times = []
    for _ in range(repeats + 1):
        _wait()
        started = time.perf_counter()
        work()
        _wait()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def report(bench: str, found: dict[str, Any], args: argparse.Namespace) -> int:
    """Print the figures (a name that ends in _share is a share, _per_second a rate), write and compare them.

    Raises InputError for a baseline of another bench or machine.
    """
    found = found | {"peak_rss_bytes": peak_rss_bytes()}
    if torch.cuda.is_available():
        found["peak_gpu_bytes"] = torch.cuda.max_memory_allocated()
    facts = {"bench": bench, "machine": machine(), "commit": git_commit(), "threads": args.threads, "figures": found}
    before = _baseline(args.baseline, facts) if args.baseline else {}
    print(f"{bench} on {facts['machine']['gpu'] or facts['machine']['cpu']}, {args.threads} thread(s)")
    for name, value in found.items():
        print(f"  {name:<44} {_shown(name, value):>14}{_change(name, value, before.get(name))}")
    if args.json:
        write_json(args.json, facts)
    return 0


def _baseline(path: Path, facts: dict[str, Any]) -> dict[str, Any]:
    try:
        before = json.loads(path.read_text())
        same = {name: before[name] for name in ("bench", "machine", "threads")}
    except (OSError, ValueError, KeyError):
        raise InputError(f"--baseline {path}: no figures of a bench; write them with --json") from None
    for name, value in same.items():
        if value != facts[name]:
            raise InputError(f"--baseline {path}: of {name} {value}, this is {facts[name]}; figures do not compare")
    return before["figures"]


def _shown(name: str, value: Any) -> str:
    if not isinstance(value, int | float):
        return str(value)
    if name.endswith("_bytes"):
        return f"{value / 2**20:,.1f} MiB"
    if "_share" in name:
        return f"{value:.1%}"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def _change(name: str, value: Any, before: Any) -> str:
    if not isinstance(value, int | float) or not isinstance(before, int | float) or not before:
        return ""
    ratio = value / before
    if name in WITHOUT_DIRECTION or abs(ratio - 1) < 0.02:
        return f"   {ratio:5.2f} x the baseline"
    worse = (ratio > 1) == any(word in name for word in LOWER_IS_BETTER)
    return f"   {ratio:5.2f} x the baseline, {'worse' if worse else 'better'}"
