"""The load generator against a server whose answers are known."""

import asyncio
from contextlib import closing

import numpy as np
import pytest

from experiments.serving import load
from experiments.serving.load import Target, answer_of, closed_loop, http_message, open_loop

HEAD = b'{"model_version":"3","outputs":[{}]}'
SCORES = np.array([0.5, 0.25], np.float32)
BINARY = f"inference-header-content-length: {len(HEAD)}\r\n".encode()
ANSWERS = {
    b"/good": b"HTTP/1.1 200 OK\r\n%scontent-length: %d\r\n\r\n%s" % (BINARY, len(HEAD) + 8, HEAD + SCORES.tobytes()),
    b"/busy": b"HTTP/1.1 429 Too Many\r\nRetry-After: 1\r\ncontent-length: 2\r\n\r\n{}",
    b"/fault": b"HTTP/1.1 500 Oops\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}",
    b"/drop": b"",
    b"/slow": None,
}


def run(paths, loop, check=None):
    """Outcomes of `loop(target)`; the server answers by path."""

    async def serve(reader, writer):
        with closing(writer):
            while line := await reader.readline():  # b"" when the client has closed
                while await reader.readline() not in (b"\r\n", b""):
                    continue
                answer = ANSWERS[line.split()[1]]
                if answer is not None:
                    writer.write(answer)
                if answer == b"":
                    break

    async def test():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        found = await loop(Target(port, [http_message(path, b"", method="GET") for path in paths], check))
        server.close()
        return found

    return asyncio.run(asyncio.wait_for(test(), 30))


def test_a_closed_loop_counts_what_came_of_each_request(monkeypatch):
    monkeypatch.setattr(load, "HUNG", 0.05)
    found = run(["/good", "/busy", "/fault", "/drop", "/slow"], lambda target: closed_loop(target, 2, 0.4))
    assert set(found.statuses) == {200, 429, 500, 0, -1} and found.retry_after == found.statuses[429]
    facts = found.facts()
    assert facts["answered"] == len(found.seconds) == found.statuses[200] and not facts["wrong"]
    assert facts["failed"] == found.statuses[500] + found.statuses[0] + found.statuses[-1] and facts["hung"] >= 1
    assert 0 < facts["p50_ms"] <= facts["p99_ms"] <= facts["max_ms"] < 400


def test_an_open_loop_asks_at_its_rate_whatever_the_answers(monkeypatch):
    monkeypatch.setattr(load, "HUNG", 0.2)
    found = run(["/good", "/slow"], lambda target: open_loop(target, 200, 0.5))
    assert found.facts()["requests"] == 100 and found.statuses == {200: 50, -1: 50}


def test_wrong_answers_are_told():
    def check(number, head, body):
        version, scores = answer_of(head, body)
        return "" if version == "3" and scores.tolist() == [0.5, 0.25] else "off"

    assert not run(["/good"], lambda target: closed_loop(target, 1, 0.02), check).wrong
    found = run(["/good"], lambda target: closed_loop(target, 1, 0.02), lambda *_: "off")
    assert len(found.wrong) == len(found.seconds) > 0


def test_answers_in_json_are_read_too():
    body = b'{"model_version":"1","outputs":[{"data":[0.5]}]}'
    version, scores = answer_of({}, body)
    assert version == "1" and scores == pytest.approx([0.5])
