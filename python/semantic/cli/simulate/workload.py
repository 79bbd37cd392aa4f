"""What is replayed: a trace in an order, its prompts cut to a length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from semantic.cli.simulate.trace import Request, Run, Trace

__all__ = ["Workload"]


@dataclass(frozen=True, slots=True)
class Workload:
    """The requests of a simulation.

    Hit rates are parts of the recorded prompts' tokens, up to the cut. What is replayed of a prompt
    are its full blocks below the cut: the partial one at its end is in no trace, and so a miss.

    Args:
        trace: The recorded requests.
        order: Rows in the order of the replay; may leave rows out.
        max_tokens: Where prompts are cut.
    """

    trace: Trace
    order: Sequence[int]
    max_tokens: int

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(min(self.request(row).prompt_tokens, self.max_tokens) for row in self.order)

    def request(self, row: int) -> Request:
        """What a row of the trace says."""
        return self.trace.requests[row]

    def blocks(self, row: int) -> int:
        """Blocks of the trace that are replayed of a prompt."""
        return min(self.request(row).blocks, self.max_tokens // self.trace.block_tokens)

    def replayed_tokens(self, row: int) -> int:
        """Tokens that are replayed of a prompt."""
        return self.blocks(row) * self.trace.block_tokens

    def runs(self, row: int) -> list[Run]:
        """The blocks that are replayed of a prompt, as `Trace.runs` has them."""
        return self.trace.runs(row, self.blocks(row))
