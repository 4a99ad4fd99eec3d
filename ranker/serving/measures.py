"""Prometheus metrics of a server."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ranker.serving.batcher import Answer, Batcher
from ranker.serving.served import Served

SECONDS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1, 2, 4)
CANDIDATES = (1, 10, 50, 100, 200, 500, 1000, 5000)
STATUSES = ("ok", "invalid", "busy", "failed")


class Measures:
    """What is counted a request; `text` is the page that Prometheus reads."""

    def __init__(self, served: Served, batcher: Batcher) -> None:
        self.registry = own = CollectorRegistry()
        self._requests = Counter("moon_requests", "inference requests", ["protocol", "status"], registry=own)
        self._seconds = Histogram(
            "moon_request_seconds", "of answered requests", ["protocol"], buckets=SECONDS, registry=own
        )
        self._candidates = Histogram("moon_candidates", "candidates a request", buckets=CANDIDATES, registry=own)
        self._unknown = Counter("moon_unknown_ids", "ids without a table row of their own", ["kind"], registry=own)
        self._missing = Counter("moon_missing_vectors", "candidates without a vector", ["name"], registry=own)
        for protocol in ("http", "grpc"):
            for status in STATUSES:
                self._requests.labels(protocol, status)  # so that each is there before it happens
        own.register(_State(served, batcher))
        ProcessCollector(registry=own)

    def answered(self, protocol: str, seconds: float, answer: Answer) -> None:
        """Count one answered request."""
        self._requests.labels(protocol, "ok").inc()
        self._seconds.labels(protocol).observe(seconds)
        self._candidates.observe(len(answer.score))
        self._unknown.labels("user").inc(answer.unknown_user)
        self._unknown.labels("item").inc(answer.unknown_items)
        for name, count in answer.missing.items():
            self._missing.labels(name).inc(count)

    def refused(self, protocol: str, status: str) -> None:
        """Count one request that got no scores; `status` is one of STATUSES."""
        self._requests.labels(protocol, status).inc()

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _State(Collector):
    """What is read off the server when somebody asks."""

    def __init__(self, served: Served, batcher: Batcher) -> None:
        self.served, self.batcher = served, batcher

    def collect(self) -> Iterator[Metric]:
        model = self.served.model
        version = GaugeMetricFamily("moon_model_version", "1 for what is served", labels=["model", "version", "hash"])
        version.add_metric([model.package.name, model.version, model.package.hash], 1)
        vectors = GaugeMetricFamily("moon_vectors_version", "version of a store that is read", labels=["name"])
        for name, pinned in model.pinned().items():
            vectors.add_metric([name], pinned.version.number)
        yield from (version, vectors)
        yield GaugeMetricFamily("moon_waiting_requests", "accepted, not yet being scored", self.batcher.waiting)
        yield GaugeMetricFamily("moon_items", "items known with their columns", model.items.size)
        counters = {
            "moon_batches": ("scored batches", self.batcher.batches),
            "moon_batched_requests": ("requests in them", self.batcher.batched),
            "moon_model_swaps": ("models that took over", self.served.swaps),
            "moon_vector_swaps": ("versions of stores that took over", self.served.vector_swaps),
            "moon_failed_swaps": ("models or stores that did not fit", self.served.failed_swaps),
        }
        for name, (meaning, value) in counters.items():
            yield CounterMetricFamily(name, meaning, value)
