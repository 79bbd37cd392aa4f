"""From live caches to a published prefix, or to a counted reason why not."""

from __future__ import annotations

import logging
import time

from semantic.application.resources import Resources
from semantic.application.sealed_blocks import Publication
from semantic.domain.errors import (
    IncompatibleCacheError,
    PoolConfigurationError,
    PoolExhaustedError,
    UnsupportedCacheError,
)
from semantic.domain.native import TokenIds
from semantic.domain.reports import CommitReason, CommitReport
from semantic.ports.outbound import Caches

__all__ = ["publish_caches", "reason_of"]

_log = logging.getLogger("semantic")

_REASONS: tuple[tuple[type[Exception], CommitReason], ...] = (
    (UnsupportedCacheError, "unsupported"),
    (IncompatibleCacheError, "incompatible"),
    (PoolExhaustedError, "budget"),
    (PoolConfigurationError, "budget"),  # a budget below one block
)


def reason_of(error: Exception) -> CommitReason:
    """The counted reason for an exception that became a miss."""
    return next((reason for kind, reason in _REASONS if isinstance(error, kind)), "failed")


def publish_caches(
    memory: Resources,
    tokens: TokenIds,
    caches: Caches,
    agent_id: str,
    kind: str,
    *,
    exact: bool = True,
) -> Publication:
    """Publish live caches; every failure is a report, counted and logged, never an exception.

    Args:
        memory: Where to.
        tokens: What the caches hold.
        caches: The sequence's caches.
        agent_id: Who publishes.
        kind: What kind of segment ends here.
        exact: Refuse caches whose length is not that of `tokens`; else publish what both have.
    """
    start = time.perf_counter()
    try:
        live = memory.materialiser.open(memory.spec, caches, len(tokens))
        if exact and live.n_tokens != len(tokens):
            raise IncompatibleCacheError(
                f"the caches hold {live.n_tokens} positions, not {len(tokens)}"
            )
        publication = memory.sealed.publish(
            tokens if live.n_tokens >= len(tokens) else tokens[: live.n_tokens],
            live,
            agent_id,
            kind,
        )
        memory.counters.views_released(live.view_bytes)
        seconds = time.perf_counter() - start
        memory.counters.step("capture", seconds, publication.captured_bytes)
    except Exception as error:
        reason = reason_of(error)
        if reason == "failed":
            _log.exception("a capture failed")
        publication = Publication(CommitReport(0, reason, str(error)))
    report = publication.report
    if report.reason not in ("published", "already_cached", "declined"):
        memory.counters.failure(report.reason, report.detail)
    return publication
