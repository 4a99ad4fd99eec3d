"""The server, driven by Triton's own clients: scores, errors, refusal, versions swapped under load, an orderly end."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import polars as pl
import pytest
import tritonclient.grpc
import tritonclient.http

import moon
from experiments.serving.fuzz import fuzz
from features.store import Store
from features.store_append import append
from ranker.exporting.recorded import tensors_of
from ranker.serving.model import Model
from ranker.serving.package import current_version, open_package, point
from ranker.serving.requests import requests_of
from tests.ranker.serving.server import body, serving


@pytest.fixture(scope="module")
def folders(exported, tmp_path_factory):
    """(model folder with two versions, store, items): copies that tests may change; version 2 scores otherwise."""
    root = tmp_path_factory.mktemp("served")
    model = shutil.copytree(exported.package, root / "model", symlinks=True)
    second = shutil.copytree(current_version(model), model / "v00000002")
    table = np.load(second / "tables" / "item.npy", mmap_mode="r+")
    table += 0.3
    table.flush()
    found = Model(second).score(requests_of(open_package(second).signature, requests_in(second))).probability
    pl.DataFrame({"score": found}).write_parquet(second / "examples" / "scores.parquet")
    (root / "items").mkdir()
    return model, shutil.copytree(second / "stores" / "image", root / "store"), root / "items"


@pytest.fixture(scope="module")
def server(folders):
    model, store, items = folders
    with serving(model, "--store", f"image={store}", "--items", items, "--longest-wait-ms", 100) as found:
        yield found


@pytest.fixture(scope="module")
def own(exported):
    return open_package(current_version(exported.package)).signature


@pytest.fixture(scope="module")
def rows(exported):
    return requests_in(current_version(exported.package)).to_dicts()


def requests_in(version):
    return pl.read_parquet(version / "examples" / "requests.parquet")


def scores_in(version):
    return pl.read_parquet(version / "examples" / "scores.parquet")["score"].to_numpy()


def inputs(client, own, row, **settings):
    found = []
    for name, values in tensors_of(own, row).items():
        datatype = own.input(name).datatype
        tensor = client.InferInput(name, list(values.shape), datatype)
        found.append(tensor.set_data_from_numpy(values.astype(object) if datatype == "BYTES" else values, **settings))
    return found


@pytest.mark.parametrize("protocol", ["http", "http-json", "grpc"])
def test_triton_s_clients_get_the_scores(server, folders, own, rows, protocol):
    module = tritonclient.grpc if protocol == "grpc" else tritonclient.http
    client = module.InferenceServerClient(f"127.0.0.1:{server.grpc if protocol == 'grpc' else server.http}")
    settings = {} if protocol == "grpc" else {"binary_data": protocol == "http"}
    wanted = module.InferRequestedOutput("score", **settings)
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("export", "1")
    given = [inputs(module, own, row, **settings) for row in rows]
    answers = [client.infer("export", x, outputs=[wanted], request_id="a") for x in given[:2]]
    answers += [client.infer("export", x, model_version="1") for x in given[2:]]
    found = np.concatenate([answer.as_numpy("score") for answer in answers])
    assert np.abs(found - scores_in(folders[0] / "v00000001")).max() < 1e-6
    metadata = client.get_model_metadata("export", **({"as_json": True} if protocol == "grpc" else {}))
    assert [i["name"] for i in metadata["inputs"]] == [i.name for i in own.inputs]
    for name, version, reason in [("other", "", "no model 'other'"), ("export", "9", "version '9' of 'export' is not")]:
        with pytest.raises(Exception, match=reason):
            client.infer(name, given[0], model_version=version)


def test_many_candidates_of_one_user_and_what_the_answer_says(server, own, rows):
    shown = [row["item"] for row in rows]
    names = [i.name for i in own.inputs if i.shape == "candidates"]
    several = {name: [row[name] for row in rows] for name in names}
    status, _, found = server.post(body(own, rows[3], **several | {"item": [*shown[:-1], 10**12]}))
    assert status == 200 and found["model_version"] == "1" and found["outputs"][0]["shape"] == [len(rows)]
    assert found["parameters"]["unknown_items"] >= 1 and found["parameters"]["missing_image"] >= 1
    alone = server.post(body(own, rows[3]))[2]
    assert abs(found["outputs"][0]["data"][3] - alone["outputs"][0]["data"][0]) < 1e-6


PROTOCOLS = ("http", "grpc")
ITEM = {"name": "item", "shape": [2], "datatype": "INT64"}
WRONG = [
    (b"{", 400, "not valid JSON"),
    (b"[]", 400, "must be a JSON object"),
    (b'{"inputs": []}', 400, "at least one"),
    (b'{"input": []}', 400, "unknown field 'input'"),
    ({"data": [1]}, 400, "1 values, shape says 2"),
    ({"data": [1, True]}, 400, "no INT64"),
    ({"data": [1, None]}, 400, "no INT64"),
    ({"data": [1, 2**63]}, 400, "does not fit INT64"),
    ({"data": [1, 2], "shape": [1, 2]}, 400, "one dimension"),
    ({"data": [], "shape": [2**40]}, 400, "at most 100000"),
    ({"data": [1, 2], "datatype": "PICKLE"}, 400, "is unknown"),
    ({"parameters": {"binary_data_size": 16}}, 400, "bytes that are there"),
    ({"parameters": {"shared_memory_region": "x"}}, 400, "must be a flat list"),
    ({"data": [1, 2]}, 400, "input 'user' is missing"),
    (b"x" * (5 << 20), 413, "more than 4194304 bytes"),
]


@pytest.mark.parametrize(("given", "status", "reason"), WRONG)
def test_a_wrong_request_is_4xx_with_a_reason(server, given, status, reason):
    given = given if isinstance(given, bytes) else json.dumps({"inputs": [ITEM | given]}).encode()
    found = server.post(given)
    assert found[0] == status and reason in found[2]["error"]


def test_wrong_paths_encodings_and_amounts_are_4xx(server, own, rows):
    assert server.post(b"{}", "/v2/models/other/infer")[0] == server.post(b"{}", "/v2/nothing")[0] == 404
    assert server.post(b"{}", "/v2/models/export")[0] == 405
    zipped = server.post(b"x", **{"content-encoding": "gzip"})
    assert zipped[0] == 400 and "must be identity" in zipped[2]["error"]
    crowd = server.post(body(own, rows[0], item=[1] * 5001))
    assert crowd[0] == 400 and "5001 values; at most 5000" in crowd[2]["error"]


def test_malformed_requests_of_every_kind_are_refused_with_a_reason(server, exported):
    """Many more of them: moon bench fuzz."""
    found = fuzz(exported.package, server.http, server.grpc, 600, seed=1)
    assert not found.faults and len(found.kinds) > 40 and found.answers["400"] > 200
    assert all(
        f'moon_requests_total{{protocol="{p}",status="failed"}} 0.0' in server.get("/metrics") for p in PROTOCOLS
    )


def test_grpc_says_what_was_wrong(server, own, rows):
    channel = grpc.insecure_channel(f"127.0.0.1:{server.grpc}")
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    with pytest.raises(grpc.RpcError, match="the message is no ModelInferRequest") as error:
        call(b"\xff\xff no message")
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc}")
    with pytest.raises(Exception, match=r"INVALID_ARGUMENT.*input 'ts' is missing"):
        client.infer("export", [x for x in inputs(tritonclient.grpc, own, rows[0]) if x.name() != "ts"])


def test_too_much_work_is_refused_at_once_and_the_rest_is_answered(server, own, rows):
    crowd = body(own, max(rows, key=lambda row: len(row["history.item"])), item=[1] * 5000)
    with ThreadPoolExecutor(40) as pool:
        found = list(pool.map(lambda _: server.post(crowd), range(40)))
    assert {status for status, _, _ in found} == {200, 429}
    for status, heads, answer in found:
        assert (int(heads["retry-after"]) >= 1 and "busy" in answer["error"]) if status == 429 else "outputs" in answer
    with ThreadPoolExecutor(40) as pool:
        clients = [tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc}") for _ in range(40)]
        tensors = inputs(tritonclient.grpc, own, max(rows, key=lambda row: len(row["history.item"])))
        place = [tensor.name() for tensor in tensors].index("item")
        tensors[place] = tritonclient.grpc.InferInput("item", [5000], "INT64")
        tensors[place].set_data_from_numpy(np.ones(5000, np.int64))
        codes = list(pool.map(lambda client: _code(client, tensors), clients))
    assert set(codes) == {"OK", "StatusCode.RESOURCE_EXHAUSTED"}


def _code(client, tensors):
    try:
        client.infer("export", tensors)
        return "OK"
    except tritonclient.grpc.InferenceServerException as error:
        return error.status()


def test_a_new_item_is_scored_by_its_content_without_a_restart(server, folders, own, rows):
    """The recipe of docs/serving.md: the item's vector reaches the store, its columns the folder of items."""
    _, store, items = folders
    ask = body(own, rows[0], item=[900_001])
    before = server.post(ask)[2]
    assert before["parameters"]["unknown_items"] == before["parameters"]["missing_image"] == 1
    append(store, Store(store).current, pl.Series([900_001]), np.eye(8, dtype=np.float32)[:1])
    server.until("vectors_swapped")
    with_vector = server.post(ask)[2]
    assert with_vector["parameters"]["missing_image"] == 0 and with_vector["parameters"]["vectors_image"] == 2
    (items / ".part").write_text(json.dumps({"item_id": 900_001, "genres": ["Comedy"]}))
    (items / ".part").rename(items / "new.jsonl")
    server.until("items_learnt")
    with_genre = server.post(ask)[2]
    scores = [answer["outputs"][0]["data"][0] for answer in (before, with_vector, with_genre)]
    assert len({round(score, 6) for score in scores}) == 3
    (items / "bad.jsonl").write_text('{"item": 1}\n')
    assert "no column 'item_id'" in server.until("items_refused")["error"]


def test_versions_are_swapped_under_load_and_rolled_back(server, folders, own, rows):
    """The other recipe: no request fails, every answer is wholly of the version that it names."""
    model = folders[0]
    expected = {str(v): scores_in(model / f"v0000000{v}") for v in (1, 2)}
    assert np.abs(expected["1"] - expected["2"]).min() > 1e-5
    bodies, done, found = [body(own, row) for row in rows], threading.Event(), []

    def ask():
        place = 0
        while not done.is_set():
            place = (place + 1) % len(bodies)
            found.append((place, *server.post(bodies[place])))

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask) for _ in range(2)]
        for version in ("v00000002", "v00000001", "v00000002"):
            point(model, version)
            server.until("model_swapped")
        shutil.copytree(model / "v00000002", model / "v00000003", ignore=lambda *_: ["item.npy"])
        point(model, "v00000003")  # a damaged version: the one before goes on
        assert "item.npy: is missing" in server.until("swap_failed")["error"]
        point(model, "v00000001")
        server.until("model_swapped")
        done.set()
        for future in asking:
            future.result()
    versions = set()
    for place, status, _, answer in found:
        assert status == 200
        versions.add(answer["model_version"])
        assert abs(answer["outputs"][0]["data"][0] - expected[answer["model_version"]][place]) < 1e-6
    assert versions == {"1", "2"}


def test_metrics_count(server):
    text = server.get("/metrics")
    assert 'moon_model_version{hash="' in text and 'moon_requests_total{protocol="grpc",status="busy"}' in text
    assert "moon_failed_swaps_total 1.0" in text and "moon_request_seconds_bucket" in text
    assert 'moon_requests_total{protocol="http",status="failed"} 0.0' in text


def test_mistakes_are_one_line(exported, server, capsys):
    def line(*words):
        assert moon.main(["serve", str(exported.package), *map(str, words)]) == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    assert "--workers 0: must be at least 1" in line("--workers", 0)
    assert "Address already in use" in line("--http", server.http)
    assert "--store image: must be NAME=DIR" in line("--http", 0, "--grpc", 0, "--store", "image")
    missing = ["--store", "text=x", "--http", 0, "--grpc", 0, "--runtime", "program"]
    assert "the model has no such vectors; it reads image" in line(*missing)
