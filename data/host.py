"""Settings of the host process that make CPU training fast, and facts about it."""

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> None:
    """Tell glibc to reuse large blocks instead of returning them to the kernel after every operation.

    A training step allocates the same activations again and again; by default each comes fresh from mmap and is
    paid for in page faults (half of the step for a jagged attention of 120,000 behaviours). No-op off Linux.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
        mallopt(_M_TOP_PAD, 1 << 26)


def let_waiting_threads_sleep() -> None:
    """Tell OpenMP that threads without work sleep and do not spin; called before torch is imported, which reads it.

    A spinning thread holds a core that a loader, another process or the thread it waits for needs: two threads of a
    training step on two busy cores are then several times slower than one (docs/scale.md has figures). The caller's own
    OMP_WAIT_POLICY stands.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def compute_threads(beside: int) -> int | None:
    """Threads for the compute that leave a core to each of `beside` threads; None where OMP_NUM_THREADS says it."""
    if "OMP_NUM_THREADS" in os.environ:
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores - beside)


def peak_rss_bytes() -> int:
    """Largest resident set of this process so far."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def git_commit() -> str | None:
    """Commit of the source tree, with "+changes" if it differs; None outside a checkout."""
    import subprocess

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=os.path.dirname(__file__), capture_output=True, text=True)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    return commit and commit + ("+changes" if ask("status", "--porcelain", "--untracked-files=no") else "")
