"""Prometheus metrics at /metrics: the state of the studies, and the requests of this server.

Names: proxytune_studies, proxytune_studies_unreadable, and per `study` proxytune_running, proxytune_trials (also
`outcome`), proxytune_trials_budget, proxytune_best_value (also `objective`), proxytune_outbox_events_waiting;
proxytune_http_requests_total (`method`, `route`, `status`), proxytune_http_request_seconds (histogram: `method`,
`route`); proxytune_info (`version`).
"""

import importlib.metadata
import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxytune.tuning.errors import ProxytuneError
from proxytune.tuning.service.studies import Studies
from proxytune.tuning.store.summary import summary
from proxytune.tuning.tracking.acknowledgement import num_waiting

SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class StudyCollector(Collector):
    """Reads every study of the storage at each scrape; studies that cannot be read are counted."""

    def __init__(self, studies: Studies) -> None:
        self._studies = studies

    def describe(self) -> list[GaugeMetricFamily]:
        return []  # so that registering does not collect

    def collect(self) -> Iterator[GaugeMetricFamily]:
        def gauge(name: str, meaning: str, *labels: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"proxytune_{name}", meaning, labels=labels)

        running = gauge("running", "1 while a driver runs the study", "study")
        trials = gauge("trials", "Trials by outcome", "study", "outcome")
        budget = gauge("trials_budget", "Total number of trials that the study may take", "study")
        best = gauge(
            "best_value",
            "Objective of the best feasible trial with the full budget of steps",
            "study",
            "objective",
        )
        waiting = gauge("outbox_events_waiting", "Tracking events that are not yet in MLflow", "study")
        unreadable = 0
        names = self._studies.names()
        for name in names:
            try:
                study = self._studies.get(name)
                facts = summary(study)
                driver = study.driver()
                events = num_waiting(
                    study.folder / "outbox", study.tracking_uri, study.spec.tracking.experiment
                )
            except (ProxytuneError, OSError):
                unreadable += 1
                continue
            running.add_metric([name], float(driver is not None))
            for outcome, count in facts["outcomes"].items():
                trials.add_metric([name, outcome], count)
            budget.add_metric([name], facts["budget"])
            waiting.add_metric([name], events)
            for objective, direction in facts["objectives"].items():
                values = [winner["values"][objective] for winner in facts["best"]]
                if values:
                    best.add_metric(
                        [name, objective], max(values) if direction == "maximize" else min(values)
                    )
        yield GaugeMetricFamily("proxytune_studies", "Studies in the storage", value=len(names))
        yield GaugeMetricFamily(
            "proxytune_studies_unreadable", "Studies that could not be read at this scrape", value=unreadable
        )
        yield from (running, trials, budget, best, waiting)


class Metrics:
    """The registry of one server."""

    def __init__(self, studies: Studies) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(StudyCollector(studies))
        self._requests = Counter(
            "proxytune_http_requests",
            "Requests with a response",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "proxytune_http_request_seconds",
            "Seconds until the response started",
            ["method", "route"],
            buckets=SECONDS,
            registry=self._registry,
        )
        info = Gauge("proxytune_info", "Version of the server", ["version"], registry=self._registry)
        info.labels(importlib.metadata.version("proxytune")).set(1)

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def count(self, scope: Scope, status: int, seconds: float) -> None:
        """Count a response under the template of its route: paths would be unbounded label values."""
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in ("GET", "POST", "HEAD") else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)


class Measured:
    """ASGI middleware that counts and times every response."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._metrics.count(scope, status, time.perf_counter() - began)
            await send(message)

        try:
            await self._app(scope, receive, observed)
        except Exception:
            if not status:
                self._metrics.count(scope, 500, time.perf_counter() - began)
            raise
