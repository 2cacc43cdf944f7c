"""The server's own Prometheus metrics, in the default registry."""

from collections.abc import Iterator

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from runtime import phases

REQUESTS = Counter("trtpack_http_requests_total", "HTTP requests answered.", ["method", "route", "status"])
DURATION = Histogram(
    "trtpack_http_request_duration_seconds",
    "From a request's first byte to its response's last, in seconds.",
    ["method", "route"],
    # A stream of tokens takes seconds to minutes, which the client's default buckets (up to 10 s) do not tell apart.
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
)
LOAD = Gauge("trtpack_model_load_seconds", "From the import of the model's code until it was ready, in seconds.")


class _Startup(Collector):
    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "trtpack_startup_seconds",
            "Of each phase of the start, in seconds; ready is the whole, first_token the first request's wait.",
            labels=["phase"],
        )
        for name, seconds in tuple(phases.seconds.items()):
            family.add_metric([name], seconds)
        yield family


REGISTRY.register(_Startup())
