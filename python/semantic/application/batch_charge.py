"""What a batch that runs is charged for: its rows pad each other, so none is charged alone.

Every row is as long as the longest will be at its end, and a prefill may overshoot windows: the
charge is `ModelCacheSpec.live_batch_peak_bytes` of the rows that are in, from before the first byte
is allocated until the row has left. A restored row needs what it restores once more, until its
first forward pass has given every layer a buffer of its own: that is staging.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from semantic.application.resources import Resources
from semantic.application.sealed_blocks import Hold
from semantic.domain._check import whole_number
from semantic.domain.errors import BlockOperationError, PoolExhaustedError
from semantic.domain.growth import DEFAULT_PREFILL_STEP, prefill_steps
from semantic.domain.native import TokenIds

__all__ = ["BatchCharge", "Row"]

_BATCHES = 4
"""Arrays of a batch beside its rows' own, in those of one row: the tensors and the paddings of the
sequences that are prefilled, and of those that decode."""


@dataclass(eq=False)
class Row:
    """One sequence of a batch.

    Attributes:
        end_tokens: Positions that its caches have at the very end.
        hold: Its hit, a miss from the restore on.
        staging_bytes: What is charged for its restored copy.
    """

    end_tokens: int
    hold: Hold
    staging_bytes: int = 0


class BatchCharge:
    """The live bytes of the sequences that run together in one model's batch.

    Not safe for several threads: it belongs to the thread that generates.

    Args:
        memory: The model's memory, whose pool is charged.
        prefill_step: Tokens of one prefill step, at most.
    """

    def __init__(self, memory: Resources, prefill_step: int = DEFAULT_PREFILL_STEP) -> None:
        self._memory = memory
        self._asked_step = whole_number(
            prefill_step, "prefill_step", BlockOperationError, at_least=1
        )
        self.prefill_step = self._asked_step
        """Tokens of one prefill step that the rows are charged for."""
        self._rows: list[Row] = []
        self._live_bytes = self._live_arrays = 0
        self._copied_bytes = self._copied_arrays = 0

    def __len__(self) -> int:
        """Rows that are in."""
        return len(self._rows)

    @property
    def memory(self) -> Resources:
        """The memory that is charged."""
        return self._memory

    @property
    def live_bytes(self) -> int:
        """Bytes charged for the buffers of all rows."""
        return self._live_bytes

    def longest_end(self, limit_bytes: int) -> int:
        """The most positions that one row alone may come to within `limit_bytes`; 0 for none."""
        spec, step = self._memory.spec, min(prefill_steps(self._asked_step))
        if spec.live_batch_peak_bytes([1], step) > limit_bytes:
            return 0
        fits, too_many = 1, 2
        while spec.live_batch_peak_bytes([too_many], step) <= limit_bytes and too_many < 1 << 40:
            fits, too_many = too_many, too_many * 2
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            if spec.live_batch_peak_bytes([middle], step) <= limit_bytes:
                fits = middle
            else:
                too_many = middle
        return fits

    def add(self, prompt: TokenIds, new_tokens: int) -> Row:
        """Charge for one more row, and hold its hit so that it is not what goes for it.

        Where the row would be alone and does not fit, shorter prefill steps are tried.

        Args:
            prompt: The whole prompt.
            new_tokens: Tokens that may be decoded.

        Raises:
            PoolExhaustedError: Too little can be evicted now; nothing has changed.
        """
        # A batch computes one token ahead of what it has answered.
        end_tokens = len(prompt) + new_tokens + 1
        hold = self._memory.sealed.hold(prompt)
        try:
            return self._added(Row(end_tokens, hold))
        except PoolExhaustedError:
            tier = self._memory.tier
            has_let_go = not self._rows and tier is not None and tier.writer.let_go()
            if not hold.n_tokens and not has_let_go:
                raise
        # Holding the hit may be what leaves too little: without it, it may be evicted.
        hold.forgo()
        return self._added(Row(end_tokens, hold))

    def _added(self, row: Row) -> Row:
        try:
            for step in self._steps():
                try:
                    self._charge_to([*self._rows, row], step)
                    break
                except PoolExhaustedError as error:
                    refusal = error
            else:
                raise refusal
            self._stage(row)
        except BaseException:
            self._memory.sealed.release(row.hold)
            raise
        self._rows.append(row)
        return row

    def _steps(self) -> Iterator[int]:
        """The step of those who are in; where nobody is, the asked one and shorter ones."""
        return iter([self.prefill_step]) if self._rows else prefill_steps(self._asked_step)

    def _stage(self, row: Row) -> None:
        """Charge for the restored copy beside the buffers."""
        if not row.hold.n_tokens:
            return
        n_bytes = self._memory.spec.live_bytes(row.hold.n_tokens)
        try:
            self._memory.pool.charge("staging", n_bytes, self._memory.spec.live_arrays)
        except PoolExhaustedError:
            self._charge_to(self._rows, self.prefill_step)
            raise
        row.staging_bytes = n_bytes

    def _charge_to(self, rows: list[Row], step: int) -> None:
        """Charge for just these rows."""
        ends = [row.end_tokens for row in rows]
        spec = self._memory.spec
        n_bytes = spec.live_batch_peak_bytes(ends, step) if ends else 0
        n_arrays = (len(ends) + _BATCHES) * spec.live_arrays if ends else 0
        more_bytes, more_arrays = n_bytes - self._live_bytes, n_arrays - self._live_arrays
        self._memory.pool.charge("live", max(0, more_bytes), max(0, more_arrays))
        self._memory.pool.discharge("live", max(0, -more_bytes), max(0, -more_arrays))
        self._live_bytes, self._live_arrays = n_bytes, n_arrays
        self.prefill_step = step

    def restored(self, row: Row) -> None:
        """The row's hit has been restored: its blocks may go their way."""
        row.hold.forgo()

    def may_restore(self, row: Row, n_tokens: int) -> bool:
        """Charge for a restored copy of so many tokens; False when there is no room for it."""
        if not n_tokens:
            return True
        more = self._memory.spec.live_bytes(n_tokens) - row.staging_bytes
        if more > 0:
            n_arrays = 0 if row.staging_bytes else self._memory.spec.live_arrays
            try:
                self._memory.pool.charge("staging", more, n_arrays)
            except PoolExhaustedError:
                return False
            row.staging_bytes += more
        return True

    def settled(self, row: Row) -> None:
        """The row has computed: its buffers are its own, the restored copy is no more."""
        if row.staging_bytes:
            arrays = self._memory.spec.live_arrays
            self._memory.pool.discharge("staging", row.staging_bytes, arrays)
            row.staging_bytes = 0

    def copy(self, n_bytes: int) -> bool:
        """Charge for a copy of a row that is to be captured; False when there is no room for it."""
        n_arrays = self._memory.spec.live_arrays
        try:
            self._memory.pool.charge("staging", n_bytes, n_arrays)
        except PoolExhaustedError:
            return False
        self._copied_bytes += n_bytes
        self._copied_arrays += n_arrays
        return True

    def drop_copies(self) -> None:
        """The copies are no more."""
        self._memory.pool.discharge("staging", self._copied_bytes, self._copied_arrays)
        self._copied_bytes = self._copied_arrays = 0

    def end(self, row: Row) -> None:
        """The row has left. Idempotent."""
        if row not in self._rows:
            return
        self._rows.remove(row)
        self.restored(row)
        self.settled(row)
        self._charge_to(self._rows, self.prefill_step)

    def clear(self) -> None:
        """All rows have left."""
        for row in list(self._rows):
            self.end(row)
        self.drop_copies()
