"""The machine that figures were taken on."""

import os
import platform
from pathlib import Path

import torch


def machine() -> str:
    """Processor, cores that this process may use, vector instructions, memory, versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores, simd = len(os.sched_getaffinity(0)), torch.backends.cpu.get_cpu_capability()
    return (
        f"{name}, {cores} cores, {simd}, {gib:.0f} GiB, torch {torch.__version__}, Python {platform.python_version()}"
    )
