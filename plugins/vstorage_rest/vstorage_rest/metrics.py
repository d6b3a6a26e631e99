"""`GET /db/metrics`: what a Prometheus server scrapes; needs `pip install 'vstorage-rest[metrics]'`."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from vstorage_core import Change, Storage

if TYPE_CHECKING:
    from prometheus_client.core import Metric

EXTENSION = "rest.changes"


class ChangeCounts:
    """How many changes have been committed since the storage was made, by component and operation."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, changes: Sequence[Change]) -> None:
        """Count them."""
        with self._mutex:
            for change in changes:
                self._counts[change.component, change.operation] += 1

    def items(self) -> list[tuple[tuple[str, str], int]]:
        """Component and operation, with the number of changes."""
        with self._mutex:
            return sorted(self._counts.items())


def change_counts(storage: Storage) -> ChangeCounts:
    """The counts of this storage."""
    counts: ChangeCounts | None = storage.extensions.get(EXTENSION)
    return storage.extensions.setdefault(EXTENSION, ChangeCounts()) if counts is None else counts


class StorageMetrics:
    """A collector for prometheus_client: asks the storage at each scrape."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def collect(self) -> Iterator[Metric]:
        """The metrics, as prometheus_client wants them."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        healthy = GaugeMetricFamily("vstorage_healthy", "Whether a health check passes", labels=["check"])
        health = self._storage.health()
        for name, report in health.checks.items():
            healthy.add_metric([name], float(report["ok"]))
        yield healthy
        details = GaugeMetricFamily("vstorage_check", "Numbers that health checks tell", labels=["check", "detail"])
        for name, report in health.checks.items():
            for detail, value in report.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    details.add_metric([name, detail], value)
        yield details
        records = GaugeMetricFamily("vstorage_records", "Records that are not deleted", labels=["component"])
        # A sick database is told by its check; what it holds nobody knows then.
        if health.checks["database"]["ok"]:
            for accessor in self._storage.accessors:
                records.add_metric([accessor.component], accessor.count())
        yield records
        changes = CounterMetricFamily("vstorage_changes", "Committed changes", labels=["component", "operation"])
        for labels, count in change_counts(self._storage).items():
            changes.add_metric(list(labels), count)
        yield changes


def metrics_text(storage: Storage) -> bytes:
    """The metrics in Prometheus' text format."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(StorageMetrics(storage))
    return generate_latest(registry)
