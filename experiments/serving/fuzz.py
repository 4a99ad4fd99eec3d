"""`moon bench fuzz MODEL`: malformed requests at a server; each is to be refused with a reason, none may hang it."""

import argparse
import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import polars as pl

from data.files import write_json
from data.progress import Progress
from experiments.serving.load import Connection, Target
from experiments.serving.machine import machine
from experiments.serving.malformed import Case, Malformed
from experiments.serving.process import ServerProcess
from ranker.serving.package import current_version, open_package

LONGEST = 20.0  # seconds for an answer
CLIENTS = 16
METHOD = "/inference.GRPCInferenceService/ModelInfer"
REFUSALS = {"INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"}


@dataclass
class Verdicts:
    """What became of the cases: answers by kind of mutation, and those that are faults of the server."""

    answers: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def add(self, case: Case, answer: str, reason: str) -> None:
        """`answer`: a status, `closed` or `hung`; `reason`: what the server said."""
        self.answers[answer] += 1
        self.kinds[case.kind] += 1
        closed = answer == "closed" and case.raw
        taken = answer in ("200", "OK") and not case.certain
        refused = (answer in REFUSALS or answer.startswith("4")) and bool(reason)
        if not (closed or taken or refused):
            self.faults.append(f"{case.kind}: {answer} {reason[:200]!r} for {case.message[:300]!r}")


def main(argv: list[str]) -> int:
    """The command; status 1 if the server has a fault."""
    parser = argparse.ArgumentParser("moon bench fuzz", description="Malformed requests at a server of a model.")
    parser.add_argument("model", type=Path, help="folder of an exported model")
    parser.add_argument("--count", type=int, default=100_000, help="requests")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args(argv)
    server = ServerProcess(args.model)
    started = time.monotonic()
    verdicts = fuzz(args.model, server.http, server.grpc, args.count, args.seed)
    found: dict[str, Any] = {
        "machine": machine(),
        "requests": args.count,
        "seconds": time.monotonic() - started,
        "answers": dict(verdicts.answers.most_common()),
        "kinds": dict(verdicts.kinds.most_common()),
        "faults": verdicts.faults,
        "failures_that_the_server_logged": sum(e["event"] == "request_failed" for e in server.events),
        "exit_status": server.stop(),
    }
    print(", ".join(f"{answer} {count:,}" for answer, count in found["answers"].items()))
    print("\n".join(verdicts.faults[:20]) or f"{args.count:,} malformed requests in {found['seconds']:.0f} s: no fault")
    if args.json:
        write_json(args.json, found)
    return 1 if verdicts.faults or found["failures_that_the_server_logged"] or found["exit_status"] else 0


def fuzz(model: Path, http: int, rpc: int, count: int, seed: int) -> Verdicts:
    """`count` malformed requests to a server of `model` at these ports."""
    folder = current_version(model)
    package = open_package(folder)
    rows = pl.read_parquet(folder / "examples" / "requests.parquet").to_dicts()
    return asyncio.run(_fuzz(Malformed(package.name, package.signature, rows, seed), http, rpc, count))


async def _fuzz(cases: Malformed, http: int, rpc: int, count: int) -> Verdicts:
    verdicts, progress, left = Verdicts(), Progress("malformed requests", count), iter(range(count))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rpc}") as channel:
        call = channel.unary_unary(METHOD)

        async def client() -> None:
            connection = Connection(Target(http, []))
            for _ in left:
                case = cases.case()
                asked = _http(connection, case) if case.http else _grpc(call, case)
                verdicts.add(case, *await asked)
                progress.add(1)
            connection.close()

        await asyncio.gather(*[client() for _ in range(CLIENTS)])
    progress.close()
    return verdicts


async def _http(connection: Connection, case: Case) -> tuple[str, str]:
    try:
        async with asyncio.timeout(LONGEST):
            status, head, body = await connection.ask(case.message, end=case.raw)
    except TimeoutError:
        connection.close()
        return "hung", ""
    except (OSError, asyncio.IncompleteReadError):
        connection.close()
        return "closed", ""
    if case.raw:
        connection.close()
        return str(status), body.decode("latin-1")
    if status == 200:
        return "200", ""
    own = (
        head.get("content-type") == "application/json"
    )  # what is no HTTP is answered by the layer below, in plain text
    return str(status), json.loads(body).get("error", "") if own else body.decode("latin-1")


async def _grpc(call: Any, case: Case) -> tuple[str, str]:
    try:
        await call(case.message, timeout=LONGEST)
        return "OK", ""
    except grpc.RpcError as error:
        return error.code().name, error.details() or ""
