"""The catalogue of a store: which blocks there are, in one SQLite file that processes share.

The block files are the truth: a catalogue that is lost or damaged is made again from their headers.
What SQLite adds is what files cannot say at once: the tree of token blocks, the order of eviction,
whose blocks they are, and the sum of bytes, in transactions that several processes see alike.

A block is `coming` while it is written: its bytes are reserved before the first one of them reaches
the disk. It is `here` once its file has its name, and `leaving` until its file has gone. So the sum
of all rows is never less than what lies on the disk.

Keys and names are what the disk sees of them: a veil may hide what they stand for.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from semantic.adapters.store import counts, leaving
from semantic.adapters.store.counts import believed, count, keep, next_use, written
from semantic.adapters.store.database import Database, in_parts, whole
from semantic.adapters.store.leaving import ANY, Condition, Removal, removed_later
from semantic.adapters.store.nodes import ListedNode, listed
from semantic.adapters.store.rows import Rows
from semantic.adapters.store.users import Users, stand
from semantic.adapters.store.veil import Veil
from semantic.domain.errors import CachePersistenceError
from semantic.domain.layer_group import BLOCK_TOKENS
from semantic.domain.policy import EvictionOrder, Hint, Priority
from semantic.domain.stored import NewBlock

__all__ = ["Adopted", "Catalogue", "Room"]

Adopted = tuple[NewBlock, int, int]
"""The block of a file, its bytes, and when it was last written."""


@dataclass(frozen=True, slots=True)
class Room:
    """What may still be written.

    Args:
        limit: Bytes that the store may take.
        daily: Bytes that may be written in a day; None: any number.
    """

    limit: int
    daily: int | None = None


class Catalogue:
    """The rows of a store. Every method is one transaction, from any thread.

    Args:
        path: The SQLite file; None keeps it in memory.
        owner: Who writes: a name that no other process has.
        veil: What the disk sees of names and values.
        is_made: Whether it is made where it is missing; else nothing of it is changed at opening.
        damaged: Told of damage when it is met; it must not wait.

    Raises:
        CachePersistenceError: The system refuses, or the file is damaged; so for all methods.
    """

    def __init__(
        self,
        path: Path | None,
        owner: str,
        veil: Veil | None = None,
        *,
        is_made: bool = True,
        damaged: Callable[[], None] | None = None,
    ) -> None:
        self._owner = owner
        self._veil = veil or Veil(None)
        self._rows = Rows(self._veil)
        self._users = Users(owner, self._veil)
        self.database = Database(path, is_made=is_made, damaged=damaged)

    def close(self, then: Callable[[], None] | None = None) -> None:
        """Close the file; see `Database.close`."""
        self.database.close(then)

    # What is there -----------------------------------------------------------------------------

    def nodes(self, keys: Sequence[bytes]) -> list[ListedNode]:
        """Those of these token blocks of which something is stored."""
        return listed(self.database, self._veil, "n.key IN ({})", keys)

    def behind(self, parents: Sequence[bytes], *, partial: bool) -> list[ListedNode]:
        """What is stored right behind these token blocks: all of it, or only partial blocks."""
        full = f" AND n.n_tokens < {BLOCK_TOKENS}" if partial else ""
        return listed(self.database, self._veil, "n.parent IN ({})" + full, parents)

    def files(self, begin: str | None = None, end: str | None = None) -> set[str]:
        """The files of the blocks that are here: all, or from this name on, or before that one."""
        bounds = {" AND file >= ?": begin, " AND file < ?": end}
        given = {where: bound for where, bound in bounds.items() if bound is not None}
        rows = self.database.read(_HERE + "".join(given), [*given.values()], (str,))
        return {file for (file,) in rows}

    def beside(self, file: str, lies: Callable[[str], bool]) -> tuple[str | None, bool]:
        """The state of a file's row, None without one, and whether the file is there; at once."""
        with self.database.transaction() as run:
            row = run.execute("SELECT state FROM blocks WHERE file = ?", (file,)).fetchone()
            return None if row is None else str(row[0]), lies(file)

    def on_their_way(self) -> list[tuple[str, str, str]]:
        """The blocks that come or leave: file, state, and whose business that is."""
        statement = "SELECT file, state, owner FROM blocks WHERE state != 'here'"
        rows = self.database.read(statement, (), (str, str, str))
        return [(file, state, owner) for file, state, owner in rows]

    def ours(self, files: Sequence[str]) -> list[str]:
        """Those of these that come or leave, and are this owner's business."""
        found: list[str] = []
        for some in in_parts(files):
            places = ",".join("?" * len(some))
            statement = f"{_OURS} AND file IN ({places})"
            rows = self.database.read(f"SELECT file{statement}", [self._owner, *some], (str,))
            found += [file for (file,) in rows]
        return found

    def those(self, condition: Condition) -> list[str]:
        """The files of the blocks that are here and of which this is true."""
        return [file for (file,) in self.database.read(*condition.question, (str,))]

    def totals(self) -> tuple[int, int]:
        """Blocks that are here, and the bytes of all that may lie on the disk."""
        ((blocks,),) = self.database.read("SELECT count(*) FROM blocks WHERE state = 'here'")
        return int(blocks), self.fact("bytes")

    def fact(self, name: str) -> int:
        """A number that the store keeps; 0 where it was never told."""
        rows = self.database.read("SELECT value FROM counts WHERE name = ?", (name,), (int,))
        return int(rows[0][0]) if rows else 0

    def keep_fact(self, name: str, value: int) -> None:
        """Keep a number."""
        with self.database.transaction() as run:
            keep(run, name, value)

    def carry_over(self, numbers: Mapping[str, int], now: int) -> None:
        """Keep what another catalogue of this store has kept; see `counts.carry_over`."""
        with self.database.transaction() as run:
            counts.carry_over(run, numbers, now)

    # Coming ------------------------------------------------------------------------------------

    def reserve(
        self, blocks: Sequence[tuple[NewBlock, int]], room: Room, agent_id: str, now: int
    ) -> tuple[list[NewBlock], int]:
        """Reserve the bytes of new blocks, where they fit.

        They are the agent's from now on: whoever adopts the file of a killed process knows whose it
        is. What is known of the others is made to agree with them.

        Args:
            blocks: The blocks, and how many bytes each file has at the most.
            room: What may be written.
            agent_id: Who uses them.
            now: Seconds since 1970.

        Returns:
            Those that nobody else has or writes, and 0; or none, and the bytes that are missing.

        Raises:
            CachePersistenceError: Too much was written today.
        """
        with self.database.transaction() as run:
            new: list[tuple[NewBlock, int]] = []
            known: list[tuple[NewBlock, int]] = []
            for block, n_bytes in blocks:
                where = "SELECT 1 FROM blocks WHERE file = ?"
                is_new = run.execute(where, (self._veil.file(block.name),)).fetchone() is None
                (new if is_new else known).append((block, n_bytes))
            needed = sum(n_bytes for _, n_bytes in new)
            believed(run, now)
            # Also without a limit: one may be set later in the day.
            today = written(run, now) + needed
            is_too_much = room.daily is not None and needed > 0 and today > room.daily
            short = count(run, "bytes") + needed - room.limit
            if short > 0 and new and not is_too_much:
                return [], short
            if not is_too_much:
                self._rows.agree(
                    run, [block for block, _ in known], beside=[block for block, _ in blocks]
                )
                keep(run, "written", today)
                run.executemany(
                    _COMES + " VALUES (?, ?, ?, ?, ?, ?, ?, 'coming', ?, 0, 0)",
                    [(*self._rows.row(block, n_bytes), self._owner) for block, n_bytes in new],
                )
                self._rows.enter_nodes(run, [block for block, _ in new])
                self._use(run, [block for block, _ in new], agent_id, now)
        if is_too_much:  # the day may have begun all the same
            raise CachePersistenceError(f"{room.daily} bytes a day are written, and no more")
        return [block for block, _ in new], 0

    def reserve_bytes(self, name: str, n_bytes: int, limit: int) -> int:
        """Reserve bytes of what is no block, under a name that no file has; those missing."""
        with self.database.transaction() as run:
            short = count(run, "bytes") + n_bytes - limit
            if short <= 0:
                row = (name, name.encode(), "", 0, 0, n_bytes, True, self._owner)
                run.execute(_COMES + " VALUES (?, ?, ?, ?, ?, ?, ?, 'coming', ?, 0, 0)", row)
        return max(0, short)

    def arrived(self, blocks: Sequence[tuple[NewBlock, int]], agent_id: str, now: int) -> None:
        """The files of these blocks, reserved before, have their names, and so many bytes.

        Raises:
            CachePersistenceError: They are not reserved any more.
        """
        with self.database.transaction() as run:
            use = next_use(run)
            for block, n_bytes in blocks:
                file = self._veil.file(block.name)
                if run.execute(_ARRIVES, (n_bytes, use, now, file, self._owner)).rowcount != 1:
                    raise CachePersistenceError(f"{file} was not reserved any more")
            # Once more: the agent may have been forgotten meanwhile.
            stand(run, self._use(run, [block for block, _ in blocks], agent_id, now))

    def _use(
        self, run: sqlite3.Cursor, blocks: Sequence[NewBlock], agent_id: str, now: int
    ) -> list[bytes]:
        """An agent uses these; the hidden keys of their token blocks."""
        namespaces = {block.namespace for block in blocks}
        self._users.enter_agent(run, namespaces, agent_id, now)
        keys = [self._veil.key(block.name.key) for block in blocks]
        self._users.note(run, keys, agent_id)
        return keys

    def adopt(
        self,
        files: Sequence[str],
        look: Callable[[str], Adopted | None],
        *,
        state: Literal["coming", "here"] = "here",
    ) -> None:
        """Let the rows of files say what lies on the disk.

        It is looked at within the transaction: a file comes after its row and goes before it, so
        nobody writes or removes one that has no row meanwhile.

        Args:
            files: Their names, in the order in which they are to go.
            look: Finds out what a file is; None where there is no block. It asks the catalogue
                nothing.
            state: Of the rows that are to agree. Those in another one are somebody's business.
        """
        with self.database.transaction() as run:
            found: list[Adopted] = []
            for file in files:
                row = run.execute("SELECT state FROM blocks WHERE file = ?", (file,)).fetchone()
                if row is not None and row[0] != state:
                    continue
                adopted = look(file)
                if adopted is None:
                    self._gone(run, _GOES, [(file,)])
                else:
                    found.append(adopted)
            self._rows.agree(run, [block for block, _, _ in found], are_files=True)
            for block, n_bytes, written_at in found:
                values = (*self._rows.row(block, n_bytes), self._owner, next_use(run), written_at)
                run.execute(_ADOPTED, values)
            stand(run, [self._veil.key(block.name.key) for block, _, _ in found])

    # Staying -----------------------------------------------------------------------------------

    def used(self, namespace: bytes, keys: Sequence[bytes], agent_id: str, now: int) -> None:
        """What is here of these token blocks was used: it goes last, the tail before the head."""
        with self.database.transaction() as run:
            believed(run, now)
            use = next_use(run)
            hidden = [self._veil.key(key) for key in keys]
            run.executemany(
                "UPDATE blocks SET last_use = ?, used_at = ?, uses = uses + 1 WHERE key = ?",
                [(use, now, key) for key in hidden],
            )
            self._users.enter_agent(run, [namespace], agent_id, now)
            self._users.enter(run, hidden, agent_id)

    def regard(
        self,
        namespace: bytes,
        agent_id: str,
        *,
        hint: Hint | None = None,
        priority: Priority | None = None,
        is_pinned: bool | None = None,
    ) -> None:
        """How an agent's blocks stand from now on; None leaves that as it was."""
        if (hint, priority, is_pinned) == ("active", None, None):
            # It is said with every request, and most have not ended.
            where = "SELECT 1 FROM agents WHERE namespace = ? AND agent = ? AND is_ended"
            who = self._veil.key(namespace), self._veil.agent(agent_id)
            if not self.database.read(where, who):
                return
        with self.database.transaction() as run:
            self._users.regard(run, namespace, agent_id, hint, priority, is_pinned)

    def unpin_dead(self, running: Callable[[], Sequence[str]]) -> int:
        """A pin ends with the process that made it; how many such there were.

        So does the name of an agent of whom nothing is stored.

        Args:
            running: Asks which processes run; it asks the catalogue nothing. So in `take_over`.
        """
        with self.database.transaction() as run:
            unpinned = self._users.unpin_dead(run, running)
            self._users.drop_idle(run)
        return unpinned

    def believed(self, now: int) -> int:
        """What the time is, as far as a clock that has jumped can be believed; see `Seen`.

        That the store was in use then is remembered, unless it is only looked at.
        """
        with self.database.transaction() as run:
            return believed(run, now, is_kept=self.database.is_made)

    # Leaving -----------------------------------------------------------------------------------

    # What leaves is this owner's business. `remove` is told of it within the transaction.

    def choose(
        self, n_bytes: int, order: EvictionOrder = "lru", remove: Removal = removed_later
    ) -> list[str]:
        """Blocks that go next, of so many bytes where there are: they leave from now on."""
        with self.database.transaction() as run:
            files = leaving.choose(run, self._owner, n_bytes, order)
            remove(files)
        return files

    def leave(
        self,
        files: Sequence[str],
        condition: Condition = ANY,
        remove: Removal = removed_later,
    ) -> list[str]:
        """Those of these that are here, and of which this is true, leave from now on."""
        with self.database.transaction() as run:
            left = [file for file in files if leaving.leave(run, self._owner, file, condition)]
            remove(left)
        return left

    def leave_missing(self, file: str, lies: Callable[[str], bool]) -> list[str]:
        """A block leaves that was not found, unless it has come again: `lies` tells of its file."""
        with self.database.transaction() as run:
            is_leaving = not lies(file) and leaving.leave(run, self._owner, file)
        return [file] if is_leaving else []

    def take_over(
        self, running: Callable[[], Sequence[str]], remove: Removal = removed_later
    ) -> list[str]:
        """What leaves, and was the business of nobody who runs, is this owner's from now on."""
        with self.database.transaction() as run:
            files = leaving.take_over(run, self._owner, running)
            remove(files)
        return files

    def drop_shared(self, agent_id: str, namespaces: str, after: bytes) -> bytes | None:
        """An agent wants nothing of some token blocks behind this one that others use as well.

        The last of them; None: there was none.
        """
        with self.database.transaction() as run:
            return self._users.drop_shared(run, agent_id, namespaces, after, _MANY)

    def drop_agent(
        self, agent_id: str, namespaces: str = "", remove: Removal = removed_later
    ) -> list[str]:
        """An agent wants nothing of namespaces whose names begin so, hexadecimal: its name goes.

        What only it has used leaves with the name: nothing stays that nobody could name any more.
        """
        condition = self.only_of(agent_id, namespaces)
        with self.database.transaction() as run:
            found = [str(file) for (file,) in run.execute(*condition.question).fetchall()]
            files = [file for file in found if leaving.leave(run, self._owner, file, condition)]
            self._users.drop(run, agent_id, namespaces)
            remove(files)
        return files

    def only_of(self, agent_id: str, namespaces: str = "") -> Condition:
        """Only this agent uses it, and it is of a namespace whose name begins so, hexadecimal."""
        return leaving.only_of(self._veil.agent(agent_id), namespaces)

    def left(self, files: Sequence[str], *, is_forgotten: bool = False) -> int:
        """The files of these have gone; so do token blocks of which nothing is left.

        Args:
            files: Their names; what is not this owner's business stays.
            is_forgotten: So do the names of agents of whom nothing is left, however they stand.

        Returns:
            How many bytes are free again.
        """
        with self.database.transaction() as run:
            statement = f"DELETE{_OURS} AND file = ? RETURNING key, bytes"
            return self._gone(run, statement, [(self._owner, file) for file in files], is_forgotten)

    def _gone(
        self,
        run: sqlite3.Cursor,
        statement: str,
        values: Sequence[tuple[str, ...]],
        is_forgotten: bool = False,
    ) -> int:
        rows = [row for some in values for row in run.execute(statement, some).fetchall()]
        for key in dict.fromkeys(key for key, _ in rows):
            is_left = run.execute("SELECT 1 FROM blocks WHERE key = ? LIMIT 1", (key,))
            if is_left.fetchone() is None:
                run.execute("DELETE FROM nodes WHERE key = ?", (key,))
                self._users.leave(run, key, is_forgotten=is_forgotten)
        return sum(whole(n_bytes) for _, n_bytes in rows)


_MANY = 500
"""Uses that are dropped in one transaction: nobody else writes meanwhile."""

_HERE = "SELECT file FROM blocks WHERE state = 'here'"
_OURS = " FROM blocks WHERE owner = ? AND state != 'here'"
_GOES = "DELETE FROM blocks WHERE file = ? RETURNING key, bytes"
_COMES = (
    "INSERT INTO blocks (file, key, layer_group, lo, hi, bytes, is_bounded, state, owner,"
    " last_use, used_at)"
)
_ARRIVES = (
    "UPDATE blocks SET state = 'here', bytes = ?, last_use = ?, used_at = ?"
    " WHERE file = ? AND state = 'coming' AND owner = ?"
)
_ADOPTED = (
    _COMES + " VALUES (?, ?, ?, ?, ?, ?, ?, 'here', ?, ?, ?) ON CONFLICT DO UPDATE"
    " SET state = 'here', bytes = excluded.bytes, used_at = max(used_at, excluded.used_at),"
    " last_use = CASE state WHEN 'coming' THEN excluded.last_use ELSE last_use END"
)
