"""Token ids for prompts of which only the sharing is known."""

from __future__ import annotations

from array import array
from itertools import accumulate

import numpy as np

from semantic.cli.simulate.workload import Workload

__all__ = ["Prompts"]


class Prompts:
    """Makes prompts that share tokens exactly where the trace says so.

    Each new block of the trace gets token ids that no other block has: counted on from row to row,
    so that they stay small.

    Args:
        workload: What is replayed.
    """

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        requests = workload.trace.requests
        new_blocks = [request.blocks - request.shared_blocks for request in requests]
        first_new = accumulate(new_blocks, initial=0)
        # The id of a row's block b is the row's offset + b.
        self._offsets = [
            first - request.shared_blocks
            for first, request in zip(first_new, requests, strict=False)
        ]

        longest = max(map(workload.replayed_tokens, workload.order), default=0)
        self._counting = np.arange(longest, dtype=np.int64)

    def tokens(self, row: int) -> array[int]:
        """The replayed tokens of a row's prompt; empty where it has no full block."""
        size = self._workload.trace.block_tokens
        tokens = array("q", [0]) * self._workload.replayed_tokens(row)
        # Prompts are a megabyte: written in place, since fresh memory costs more than the ids.
        ids = np.frombuffer(tokens, dtype=np.int64)
        for number, lo, hi in self._workload.runs(row):
            first_id = (self._offsets[number] + lo) * size
            span = (hi - lo) * size
            np.add(self._counting[:span], first_id, out=ids[lo * size : hi * size])
        return tokens
