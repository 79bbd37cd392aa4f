"""What is replayed: the requests of a trace, in an order and at times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from semantic.cli.simulate.schedule import Turn
from semantic.cli.simulate.trace import Request, Run, Trace

__all__ = ["Workload"]


@dataclass(frozen=True, slots=True)
class Workload:
    """The requests of a simulation.

    Hit rates are parts of the recorded prompts' tokens. What is replayed of a prompt are its full
    blocks: the partial one at its end is in no trace, and so a miss.

    Args:
        trace: The recorded requests.
        turns: Which of them are replayed, in order.
    """

    trace: Trace
    turns: Sequence[Turn]

    @property
    def order(self) -> list[int]:
        """The rows in the order of the replay."""
        return [turn.row for turn in self.turns]

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(self.request(turn.row).prompt_tokens for turn in self.turns)

    def request(self, row: int) -> Request:
        """What a row of the trace says."""
        return self.trace.requests[row]

    def replayed_tokens(self, row: int) -> int:
        """Tokens that are replayed of a prompt."""
        return self.request(row).blocks * self.trace.block_tokens

    def runs(self, row: int) -> list[Run]:
        """The blocks that are replayed of a prompt, as `Trace.runs` has them."""
        return self.trace.runs(row, self.request(row).blocks)
