"""`--nproc N`: the same command in N processes of this machine, with torchrun's environment variables."""

import os
import signal
import socket
import subprocess
import sys
import time
from threading import Thread

INPUT_STATUS, SIGTERM_STATUS = 2, 143
RESTARTS = "TORCHELASTIC_RESTART_COUNT"  # torchrun's own variable
GRACE_SECONDS = 3.0


def spread(command: str, processes: int, argv: list[str], debug: bool, max_restarts: int = 0) -> int:
    """Run `moon command argv` in `processes` ranks; returns the exit status of the one that failed first (0: none).

    --nproc is taken out of `argv`. A rank that fails ends the others; one line on stderr says why, however many ranks
    said it. SIGTERM is passed on: all ranks save and the status is 143. Where a rank died or failed, though not by bad
    input, all are started again up to `max_restarts` times, as torchrun does, and find RESTARTS above 0.
    """
    argv = _without_nproc(argv)
    for restart in range(max_restarts + 1):
        failed = _once(command, processes, argv, debug, restart)
        if failed is None:
            return 0
        status = failed.process.returncode
        said = failed.error or f"moon {command}: rank {failed.rank} ended with status {status}"
        if restart == max_restarts or status in (INPUT_STATUS, SIGTERM_STATUS):
            print(said, file=sys.stderr)
            return status if status > 0 else 1
        print(f"{said}; restart {restart + 1} of {max_restarts}", file=sys.stderr, flush=True)
    raise AssertionError("unreachable")


def restarted() -> bool:
    """Whether this process takes the place of one that died (torchrun's restarts, or those of `spread`)."""
    return int(os.environ.get(RESTARTS, "0")) > 0


def _once(command: str, processes: int, argv: list[str], debug: bool, restart: int) -> "_Rank | None":
    """All ranks to their end; the one to blame, if any."""
    port = free_port()
    ranks = [_Rank(command, rank, processes, port, argv, debug, restart) for rank in range(processes)]
    previous = signal.signal(signal.SIGTERM, lambda *_: [rank.process.terminate() for rank in ranks])
    try:
        return _wait(ranks)
    finally:
        signal.signal(signal.SIGTERM, previous)
        for rank in ranks:
            rank.process.kill()
            rank.process.wait()
            rank.reader.join()


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class _Rank:
    """One process; the first rank's stderr is shown as it comes (with `debug` everybody's), its error line is kept."""

    def __init__(
        self, command: str, rank: int, world_size: int, port: int, argv: list[str], debug: bool, restart: int
    ) -> None:
        self.command, self.rank, self.shown, self.error = command, rank, debug or rank == 0, ""
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port, RESTARTS: restart}
        threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "moon", *command.split(), *argv, *(["--debug"] if debug else [])],
            env={**os.environ, **threads, "MASTER_ADDR": "127.0.0.1", **{k: str(v) for k, v in own.items()}},
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self.reader = Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith(f"moon {self.command}:"):
                self.error = line.rstrip("\n")
            elif self.shown:
                sys.stderr.write(line)
                sys.stderr.flush()


def _wait(ranks: list[_Rank]) -> _Rank | None:
    """Until all ranks are done, or one failed and the others had their grace; the rank to blame, if any.

    A rank that lost its peer fails too, with status 1: one that found bad input (2) is to blame before it.
    """
    deadline = None
    while any(rank.process.poll() is None for rank in ranks):
        if deadline is None and any(rank.process.poll() for rank in ranks):
            deadline = time.monotonic() + GRACE_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            break
        time.sleep(0.05)
    failed = [rank for rank in ranks if rank.process.poll()]
    return min(failed, key=lambda r: (r.process.returncode not in (INPUT_STATUS, SIGTERM_STATUS), r.rank), default=None)


def _without_nproc(argv: list[str]) -> list[str]:
    """The arguments for each rank."""
    kept = [word for word in argv if not word.startswith("--nproc=")]
    if "--nproc" in kept:
        at = kept.index("--nproc")
        del kept[at : at + 2]
    return kept
