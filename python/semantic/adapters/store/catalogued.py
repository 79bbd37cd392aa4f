"""A store as its catalogue and its files make it, wherever these are kept."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence

from semantic.adapters.store.catalogue import Catalogue, Room
from semantic.adapters.store.database import CatalogueBusyError, in_parts
from semantic.adapters.store.gone import Gone
from semantic.adapters.store.leaving import ANY, Condition, older_than
from semantic.adapters.store.limits import Limits, NoRoomError, Reuse
from semantic.adapters.store.nodes import ListedNode
from semantic.adapters.store.removals import Removals
from semantic.adapters.store.veil import Veil
from semantic.domain.block_bytes import TensorBytes
from semantic.domain.errors import CacheCorruptionError, CachePersistenceError
from semantic.domain.native import TokenIds
from semantic.domain.policy import Hint, Priority
from semantic.domain.stored import BlockName, NewBlock, StoredNode

__all__ = ["CataloguedStore"]

_log = logging.getLogger("semantic")

_Progress = Callable[[Sequence[Sequence[str]]], Iterable[Sequence[str]]]

_ATTEMPTS, _PAUSE_SECONDS = 20, 0.05
"""How often the log is emptied until others let it be so."""


class CataloguedStore(ABC):
    """What is the same for every store: see `BlockStore`.

    Args:
        catalogue: Which blocks there are.
        veil: What the files are called.
        limits: What the store may take and write.
        now: Seconds since 1970.
    """

    def __init__(
        self, catalogue: Catalogue, veil: Veil, limits: Limits, now: Callable[[], float] = time.time
    ) -> None:
        self.catalogue = catalogue
        self.limits = limits
        self.veil = veil
        self._reuse = Reuse(limits.min_reuse)
        self.written_bytes = self.evicted_blocks = 0
        """What this process has written, and removed to make room."""
        self._now = now
        self._removals = Removals(
            catalogue,
            lambda file: self._remove_file(file),
            lambda files: self._sync_removed(files),
        )
        self._has_told_of_log = False

    def file_of(self, name: BlockName) -> str:
        """The name of a block's file, without the ending."""
        return self.veil.file(name)

    # Files -------------------------------------------------------------------------------------

    @abstractmethod
    def _write(self, blocks: Sequence[tuple[str, NewBlock]]) -> list[int]:
        """Write files, each entirely or not at all; the bytes of each."""

    @abstractmethod
    def _read(
        self,
        file: str,
        name: BlockName,
        tokens: TokenIds,
        memory: Sequence[tuple[TensorBytes, memoryview]],
    ) -> bool:
        """Read a file; False when it is not there.

        Raises:
            CacheCorruptionError: It is damaged, or another block.
        """

    @abstractmethod
    def lies(self, file: str) -> bool:
        """Whether there is a file of that name."""

    @abstractmethod
    def _remove_file(self, file: str) -> None:
        """Remove a file, which need not be there."""

    @abstractmethod
    def _set_aside(self, file: str) -> None:
        """Put a file where nobody takes it for a block."""

    @abstractmethod
    def _most_bytes(self, block: NewBlock) -> int:
        """How large a file is at the most."""

    def _room(self) -> int:
        """Bytes that blocks may take."""
        return self.limits.max_bytes

    def _be_known(self) -> None:  # noqa: B027 (memory is one process's)
        """Count as one that runs, before anything begins that ends with its process."""

    def _check_room(self, n_bytes: int) -> None:  # noqa: B027 (memory has none to check)
        """Refuse to write so many bytes where the place for it is missing."""

    def _sync_removed(self, files: Sequence[str]) -> None:  # noqa: B027 (memory forgets anyway)
        """Return when the names of removed files would not come back after a power cut."""

    def _clear_the_way(self) -> bool:
        """Finish what was begun and left; whether there was anything.

        Files that could not be removed, or whose rows could not, when the system refused.
        """
        return self._removals.again()

    @property
    def stuck(self) -> Mapping[str, str]:
        """The files that this process could not remove, each with the reason; it tries again."""
        return self._removals.stuck

    def _unpin_dead(self) -> bool:
        """Let go what processes have pinned that do not run any more; whether there was any."""
        return False

    # Finding -----------------------------------------------------------------------------------

    def path_of(self, namespace: bytes, keys: Sequence[bytes]) -> list[list[StoredNode]]:
        """What is stored along a prompt; see `BlockStore.path_of`."""
        parents = [namespace, *keys]
        hidden = [self.veil.key(parent) for parent in parents]
        exact = self.catalogue.nodes(hidden[1:])
        known = {node.key for node in exact}
        depth = next((n for n, key in enumerate(hidden[1:]) if key not in known), len(keys))
        # Ends lie in partial blocks; where the prompts part, a full one may begin alike.
        beside = self.catalogue.behind(hidden, partial=True)
        beside += self.catalogue.behind(hidden[depth : depth + 1], partial=False)
        path: list[list[StoredNode]] = [[] for _ in parents]
        place = {parent: n for n, parent in enumerate(hidden)}
        for node in {node.key: node for node in (*exact, *beside)}.values():
            n = place.get(node.parent)
            stored = None if n is None else self._stored(node, parents[n])
            if n is not None and stored is not None:
                path[n].append(stored)
        return path

    def _stored(self, node: ListedNode, parent: bytes) -> StoredNode | None:
        """A token block by the names that its prompt gives it.

        None where its tokens have changed: whoever puts its block again repairs the row.
        """
        keys = node.tokens.keys(parent)
        if [self.veil.key(key) for key in keys] != [node.key]:
            _log.warning("what the catalogue says of %s is damaged: a miss", node.key.hex())
            return None
        blocks = tuple(BlockName(keys[0], group, lo, hi) for group, lo, hi in node.blocks)
        return StoredNode(keys[0], parent, node.tokens, blocks)

    def read(
        self, name: BlockName, tokens: TokenIds, memory: Sequence[tuple[TensorBytes, memoryview]]
    ) -> bool:
        """Read a block into fresh memory; see `BlockStore.read`."""
        file, why = self.veil.file(name), ""
        try:
            is_read = self._read(file, name, tokens, memory)
        except CacheCorruptionError as error:
            is_read, why = False, str(error)
        if not is_read:
            # Whoever finds the block again does what others keep this one from now.
            with contextlib.suppress(CatalogueBusyError), self.catalogue.database.hurried():
                self._give_up(file, why)
        return is_read

    def _give_up(self, file: str, why: str) -> None:
        if why:
            self.reject(file, why)
        else:
            self._removals.let_go(lambda _: self.catalogue.leave_missing(file, self.lies))

    def reject(self, file: str, why: str) -> None:
        """A file is no block that can be used: it is put aside, and nobody finds it again."""
        _log.warning("set aside: %s", why)
        with self.catalogue.database.unparted():
            if not self.catalogue.leave([file]):
                return
            try:
                self._set_aside(file)
                self.catalogue.left([file])
            except CachePersistenceError:
                self._removals.keep({file: ""})
                raise

    def stats(self) -> Mapping[str, int]:
        """Blocks and bytes that are stored, and the limit."""
        blocks, n_bytes = self.catalogue.totals()
        return {"blocks": blocks, "bytes": n_bytes, "max_bytes": self.limits.max_bytes}

    # Staying -----------------------------------------------------------------------------------

    def used(self, namespace: bytes, keys: Sequence[bytes], agent_id: str) -> None:
        """An agent uses these token blocks; see `BlockStore.used`."""
        self._reuse.used(keys)
        self.catalogue.used(namespace, keys, agent_id, int(self._now()))

    def regard(
        self,
        namespace: bytes,
        agent_id: str,
        *,
        hint: Hint | None = None,
        priority: Priority | None = None,
        is_pinned: bool | None = None,
    ) -> None:
        """How an agent's blocks stand from now on; see `BlockStore.regard`."""
        if is_pinned:
            self._be_known()
        self.catalogue.regard(
            namespace, agent_id, hint=hint, priority=priority, is_pinned=is_pinned
        )

    # Writing -----------------------------------------------------------------------------------

    def put(self, blocks: Sequence[NewBlock], agent_id: str) -> int:
        """Store blocks; see `BlockStore.put`."""
        wanted = {block.name: block for block in self._reuse.wanted(blocks)}
        sizes = [(block, self._most_bytes(block)) for block in wanted.values()]
        if not sizes:
            return 0
        self._check_room(sum(n_bytes for _, n_bytes in sizes))
        self._be_known()
        with self.catalogue.database.unparted():
            self._clear_the_way()
            self.expire()
            return self._put(self._reserve(sizes, agent_id), agent_id)

    def _put(self, new: Sequence[NewBlock], agent_id: str) -> int:
        if not new:
            return 0
        try:
            n_bytes = self._write([(self.veil.file(block.name), block) for block in new])
            arrived = list(zip(new, n_bytes, strict=True))
            self.catalogue.arrived(arrived, agent_id, int(self._now()))
            self.written_bytes += sum(n_bytes)
        except BaseException:
            # What got its name before the rest was refused is no block of ours, unless another
            # process has taken this one for dead and the block over. What cannot be removed now
            # stays reserved until the next put.
            with contextlib.suppress(CachePersistenceError):
                self._removals.remove([self.veil.file(block.name) for block in new])
            raise
        return len(new)

    def _reserve(self, sizes: Sequence[tuple[NewBlock, int]], agent_id: str) -> list[NewBlock]:
        while True:
            room = Room(self._room(), self.limits.daily_write_bytes)
            new, short = self.catalogue.reserve(sizes, room, agent_id, int(self._now()))
            if not short:
                self._keep_room([self.veil.file(block.name) for block in new])
                return new
            self._make_room(short)

    def _keep_room(self, reserved: Sequence[str]) -> None:
        """Have so much less stored as others have set aside while this was being reserved.

        Raises:
            NoRoomError: Nothing is left that may go; what was reserved is given back.
        """
        try:
            # The bytes first: what is set aside meanwhile counts twice then, and never not at all.
            while reserved and (short := self.catalogue.fact("bytes") - self._room()) > 0:
                self._make_room(short)
        except BaseException:
            with contextlib.suppress(CachePersistenceError):
                self._removals.remove(reserved)
            raise

    def _make_room(self, n_bytes: int) -> None:
        """Have so many bytes less stored, or what there is.

        Raises:
            NoRoomError: Nothing is left that may go.
        """
        if not self.shrink(n_bytes) and not self._clear_the_way() and not self._unpin_dead():
            raise NoRoomError(f"{n_bytes} bytes more than may be stored")

    def shrink(self, n_bytes: int) -> int:
        """Remove what goes next, of at least so many bytes where there are; how many blocks."""
        order = self.limits.policy.order
        gone = self._removals.let_go(lambda remove: self.catalogue.choose(n_bytes, order, remove))
        self.evicted_blocks += gone.blocks
        return gone.checked()

    def expire(self) -> int:
        """Remove what nobody has used for the policy's time to live; how many blocks."""
        time_to_live = self.limits.policy.time_to_live
        if time_to_live is None:
            return 0
        time = self.catalogue.believed(int(self._now()))
        return self.forget_those(older_than(int(time - time_to_live))).blocks

    # Forgetting --------------------------------------------------------------------------------

    def forget(self, namespace: bytes, agent_id: str) -> int:
        """Remove what only this agent has used; see `BlockStore.forget`."""
        return self.forget_agent(agent_id, self.veil.key(namespace).hex()).checked()

    def forget_agent(self, agent_id: str, namespaces: str = "", progress: _Progress = iter) -> Gone:
        """Remove for good what only this agent has used, and its name last.

        Args:
            agent_id: The agent.
            namespaces: What the names of the namespaces begin with, hexadecimal, as the disk sees
                them.
            progress: Shows how far it has come.
        """
        # What dead processes were writing is whole, maybe, and then it is found.
        with contextlib.suppress(CachePersistenceError), self.catalogue.database.unparted():
            self._clear_the_way()
        gone = self.forget_those(self.catalogue.only_of(agent_id, namespaces), progress)
        after: bytes | None = b""
        while after is not None:
            after = self.catalogue.drop_shared(agent_id, namespaces, after)
        # What has come meanwhile goes with the name.
        leave = functools.partial(self.catalogue.drop_agent, agent_id, namespaces)
        gone += self._removals.let_go(leave, is_forgotten=True)
        self.scrub()
        return gone

    def forget_older(self, seconds: float, progress: _Progress = iter) -> int:
        """Remove what nobody has used for so long; how many blocks that were."""
        return self.forget_those(self.older(seconds), progress).blocks

    def older(self, seconds: float) -> Condition:
        """Nobody has used it for so long, by the time that is believed."""
        believed = self.catalogue.believed(int(self._now()))
        return older_than(int(max(0.0, believed - seconds)))

    def older_files(self, seconds: float) -> list[str]:
        """The files that nobody has used for so long, by the time that is believed."""
        return self.catalogue.those(self.older(seconds))

    def doubted_seconds(self) -> int:
        """How far the clock is ahead of the time that is believed; see `Seen`."""
        now = int(self._now())
        return now - self.catalogue.believed(now)

    def forget_those(self, condition: Condition, progress: _Progress = iter) -> Gone:
        """Remove for good all of which this is true when it goes."""
        return self._forget(self.catalogue.those(condition), condition, progress)

    def remove(self, files: Sequence[str], progress: _Progress = iter) -> int:
        """Remove these for good, wherever they are in the order; how many of them were here.

        Args:
            files: Their names.
            progress: Shows how far it has come.
        """
        return self._forget(files, ANY, progress).blocks

    def _forget(self, files: Sequence[str], condition: Condition, progress: _Progress) -> Gone:
        gone = Gone()
        for part in progress(list(in_parts(files))):
            leave = functools.partial(self.catalogue.leave, part, condition)
            gone += self._removals.let_go(leave, is_forgotten=True)
        if files:
            self._truncate()
        return gone

    def scrub(self) -> None:
        """Let nothing be found any more of what was forgotten."""
        self._truncate()

    def _truncate(self) -> None:
        for _ in range(_ATTEMPTS):
            if self.catalogue.database.truncate():
                return
            time.sleep(_PAUSE_SECONDS)  # another process does the same at this moment
        if not self._has_told_of_log:
            self._has_told_of_log = True
            _log.warning("what was removed may still be read in a log that others use")

    def close(self) -> None:
        """Let go of the store. Idempotent."""
        self.catalogue.close()
