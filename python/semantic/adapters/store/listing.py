"""What a store holds, for its owner to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from semantic.adapters.store.catalogue import Catalogue
from semantic.adapters.store.daily import Daily
from semantic.adapters.store.users import BEGINS
from semantic.adapters.store.veil import Veil

__all__ = ["AgentRow", "BlockRow", "Listing"]

_STANDINGS = ("ended", "low", "normal", "high", "pinned")

_BLOCKS = (
    "SELECT b.file, b.key, hex(n.namespace), b.layer_group, b.lo, b.hi, n.n_tokens, b.bytes,"
    " b.standing, b.used_at FROM blocks b JOIN nodes n USING (key) WHERE b.state = 'here'"
)

_BLOCK_TYPES = (str, bytes, str, str, int, int, int, int, int, int)


@dataclass(frozen=True, slots=True)
class AgentRow:
    """What is stored of an agent.

    Args:
        agent: Its name; empty for blocks that nobody is known to use.
        namespace: The namespace, hexadecimal, as the disk sees it.
        tokens: Tokens of which something is stored.
        blocks: Stored blocks.
        bytes: Bytes of their files; what agents share counts for each.
        used_at: Seconds since 1970 at the last use.
    """

    agent: str
    namespace: str
    tokens: int
    blocks: int
    bytes: int
    used_at: int


@dataclass(frozen=True, slots=True)
class BlockRow:
    """A stored block.

    Args:
        file: The name of its file, without the ending.
        key: The key of its token block, hexadecimal, as the disk sees it.
        namespace: The namespace, likewise.
        layer_group: Its layer group.
        lo: The first valid position.
        hi: The end of the valid positions.
        tokens: Tokens of its token block.
        bytes: Bytes of its file.
        standing: "ended", "low", "normal", "high" or "pinned".
        used_at: Seconds since 1970 at the last use.
        agents: Who uses it.
    """

    file: str
    key: str
    namespace: str
    layer_group: str
    lo: int
    hi: int
    tokens: int
    bytes: int
    standing: str
    used_at: int
    agents: tuple[str, ...]


class Listing:
    """Reads a catalogue.

    Args:
        catalogue: The catalogue.
        veil: Reads what is sealed in it.

    Raises:
        CatalogueDamagedError: It holds what nobody writes into it; so for all methods, never here.
    """

    def __init__(self, catalogue: Catalogue, veil: Veil) -> None:
        self._database = catalogue.database
        self._read = catalogue.database.read
        self._fact = catalogue.fact
        self._veil = veil

    def agents(self) -> list[AgentRow]:
        """The agents, the last used first."""
        rows = self._read(
            "SELECT lower(hex(n.namespace)), sum(n.n_tokens), sum(s.blocks), sum(s.bytes),"
            " max(s.used_at), a.label FROM nodes n"
            " JOIN (SELECT key, count(*) AS blocks, sum(bytes) AS bytes, max(used_at) AS used_at"
            "       FROM blocks WHERE state = 'here' GROUP BY key) s USING (key)"
            " LEFT JOIN users u USING (key)"
            " LEFT JOIN agents a ON a.namespace = n.namespace AND a.agent = u.agent"
            " GROUP BY a.agent, n.namespace ORDER BY max(s.used_at) DESC",
            (),
            (str, int, int, int, int),
        )
        return [AgentRow(self._label(label), *values) for *values, label in rows]

    def blocks(
        self,
        *,
        key: str = "",
        agent_id: str | None = None,
        namespace: str = "",
        files: Sequence[str] | None = None,
    ) -> list[BlockRow]:
        """The blocks, heads before tails, in the order of their last use.

        Args:
            key: What their keys begin with, hexadecimal; so for namespaces.
            agent_id: Who uses them; None: anybody.
            namespace: What their namespaces begin with.
            files: These only.
        """
        where, values = "", []
        if key:
            where += f" AND {BEGINS.format('b.key')}"
            values.append(key)
        if namespace:
            where += f" AND {BEGINS.format('n.namespace')}"
            values.append(namespace)
        users = self._users()
        order = " ORDER BY b.last_use, b.lo, b.file"
        rows = self._read(_BLOCKS + where + order, values, _BLOCK_TYPES)
        found = []
        for file, key_of, namespace_of, group, lo, hi, tokens, n_bytes, standing, used_at in rows:
            agents = tuple(users.get(key_of, ()))
            is_wanted = agent_id is None or agent_id in agents
            if is_wanted and (files is None or file in files):
                found.append(
                    BlockRow(
                        file,
                        key_of.hex(),
                        namespace_of.lower(),
                        group,
                        lo,
                        hi,
                        tokens,
                        n_bytes,
                        self._standing(standing),
                        used_at,
                        agents,
                    )
                )
        return found

    def unreachable(self) -> list[str]:
        """The files of blocks whose prefix is not there any more: nothing can hit them."""
        rows = self._read(
            "WITH RECURSIVE lost(key) AS ("
            " SELECT n.key FROM nodes n WHERE n.parent != n.namespace AND NOT EXISTS"
            "   (SELECT 1 FROM blocks p WHERE p.key = n.parent AND NOT p.is_bounded)"
            "   AND EXISTS (SELECT 1 FROM blocks b WHERE b.key = n.key AND NOT b.is_bounded)"
            " UNION SELECT c.key FROM nodes c JOIN lost ON c.parent = lost.key)"
            " SELECT file FROM blocks JOIN lost USING (key) WHERE state = 'here'",
            (),
            (str,),
        )
        return [file for (file,) in rows]

    def written_today(self, now: int) -> int:
        """Bytes that were reserved to be written today; see `Daily` for when a day begins."""
        day, last, n_bytes = map(self._fact, ("day", "last_day", "written"))
        return Daily(day, last, n_bytes).told(now).written_bytes

    def bytes_by_group(self) -> dict[str, int]:
        """Bytes of the files of each layer group."""
        rows = self._read(
            "SELECT layer_group, sum(bytes) FROM blocks WHERE state = 'here'"
            " GROUP BY layer_group ORDER BY layer_group",
            (),
            (str, int),
        )
        return dict(rows)

    def _users(self) -> dict[bytes, list[str]]:
        rows = self._read(
            "SELECT u.key, a.label FROM users u JOIN nodes n USING (key)"
            " JOIN agents a ON a.namespace = n.namespace AND a.agent = u.agent ORDER BY a.label",
            (),
            (bytes,),
        )
        users: dict[bytes, list[str]] = {}
        for key, label in rows:
            users.setdefault(key, []).append(self._label(label))
        return users

    def _standing(self, standing: int) -> str:
        if not 0 <= standing < len(_STANDINGS):
            raise self._database.condemn(f"{standing} is no standing")
        return _STANDINGS[standing]

    def _label(self, label: object) -> str:
        """An agent's name; empty where there is none, or this key does not open it."""
        if label is not None and not isinstance(label, bytes):
            raise self._database.condemn(f"{label!r} is no name of an agent")
        found = None if label is None else self._veil.unseal(label)
        return "" if found is None else found.decode(errors="replace")
