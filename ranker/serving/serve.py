"""The command `moon serve`: an exported model behind the Open Inference Protocol, HTTP and gRPC."""

import argparse
import asyncio
import logging
import os
import socket
import sys
import warnings
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from data.errors import InputError
from data.host import keep_freed_memory

GRACE_SECONDS = 30
UVICORN: dict[str, Any] = {
    "log_level": "error",
    "access_log": False,
    "lifespan": "off",
    "timeout_keep_alive": 75,  # seconds; longer than a balancer's 60, so that it is the one that ends a connection
    "timeout_graceful_shutdown": GRACE_SECONDS,
}
SWITCH_SECONDS = 5e-5  # a thread that scores gives way to the one that reads requests after this long


def main(argv: list[str]) -> int:
    """The command. Ends with status 0 on SIGTERM or SIGINT, when what was accepted is answered."""
    parser = argparse.ArgumentParser("moon serve", description="Serve an exported model (KServe v2, HTTP and gRPC).")
    parser.add_argument("package", type=Path, help="folder of an exported model; its link `current` is followed")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--http", type=int, default=8000, help="port; 0 for any")
    parser.add_argument("--grpc", type=int, default=8001, help="port; 0 for any")
    parser.add_argument("--store", action="append", default=[], metavar="NAME=DIR", help="vectors' store to follow")
    parser.add_argument("--items", type=Path, metavar="DIR", help="folder to follow with items that came later")
    parser.add_argument("--runtime", choices=("aoti", "program", "onnx"), default="aoti", help="program to run")
    parser.add_argument("--device", default="cpu", help="where the computed part runs: cpu or cuda")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="threads that score")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="longest that a request waits for company")
    parser.add_argument("--longest-wait-ms", type=float, default=100.0, help="work in line beyond which 429 is given")
    parser.add_argument("--batch", type=int, default=2_000, help="candidates scored together at most")
    parser.add_argument("--poll-s", type=float, default=1.0, help="between looks for new versions")
    parser.add_argument("--most-bytes", type=int, default=4 << 20, help="of a request")
    parser.add_argument("--most-candidates", type=int, default=5_000, help="of a request")
    parser.add_argument("--most-behaviours", type=int, default=20_000, help="of a request")
    args = parser.parse_args(argv)
    for name in ("workers", "batch", "most_bytes", "most_candidates", "most_behaviours"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} {getattr(args, name)}: must be at least 1")
    keep_freed_memory()
    torch.set_num_threads(1)
    sys.setswitchinterval(SWITCH_SECONDS)
    warnings.simplefilter("ignore")  # stderr is for the log
    logging.disable(logging.WARNING)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(args))


async def _serve(args: argparse.Namespace) -> int:
    import grpc
    import uvicorn

    from ranker.serving.batcher import Batcher
    from ranker.serving.grpc_service import handlers
    from ranker.serving.http import application
    from ranker.serving.inference import Inference, Limits
    from ranker.serving.log import log
    from ranker.serving.measures import Measures
    from ranker.serving.served import Served, Source
    from ranker.serving.warm import score_largest

    web_socket = _bound(args.host, args.http)
    rpc = grpc.aio.server(options=[("grpc.max_receive_message_length", args.most_bytes), ("grpc.so_reuseport", 0)])
    try:
        rpc_port = rpc.add_insecure_port(f"{args.host}:{args.grpc}")
    except RuntimeError:
        raise InputError(f"--grpc {args.grpc}: {args.host} has no such free port") from None
    source = Source(args.package, args.runtime, args.device, _stores(args.store), args.items, args.workers)
    served = Served(source, args.poll_s)
    warm = partial(score_largest, served.model, args.batch)
    batcher = Batcher(args.workers, args.delay_ms / 1e3, args.longest_wait_ms / 1e3, args.batch, warm)
    limits = Limits(args.most_bytes, args.most_candidates, args.most_behaviours)
    inference = Inference(served, batcher, Measures(served, batcher), limits)
    rpc.add_generic_rpc_handlers((handlers(inference),))
    await rpc.start()

    model, config = served.model, uvicorn.Config(application(inference), **UVICORN)

    class Web(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            log("serving", model=model.package.name, version=model.version, hash=model.package.hash,
                workers=args.workers, http=web_socket.getsockname()[1], grpc=rpc_port,
                tables_bytes=model.tables.bytes)  # fmt: skip

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            inference.ready = False
            self.should_exit = True

    await Web(config).serve([web_socket])
    await rpc.stop(GRACE_SECONDS)
    served.close()
    await asyncio.to_thread(batcher.close)
    log("stopped")
    return 0


def _bound(host: str, port: int) -> socket.socket:
    """A socket that nobody can connect to yet."""
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except OSError as error:
        raise InputError(f"--host {host} --http {port}: {error.strerror}") from None
    return found


def _stores(words: list[str]) -> dict[str, Path]:
    found = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not name or not equals or not folder or name in found:
            raise InputError(f"--store {word}: must be NAME=DIR, each name once")
        found[name] = Path(folder)
    return found
