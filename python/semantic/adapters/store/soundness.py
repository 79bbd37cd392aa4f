"""Whether the rows of a catalogue can be what was written: by themselves, and by the block files.

SQLite finds pages that contradict each other. It does not find a bit that has changed in a value
which no index repeats: so a key has to follow from its tokens, and a row from its file's name.
"""

from __future__ import annotations

from collections.abc import Sequence

from semantic.adapters.store.catalogue import Catalogue
from semantic.adapters.store.database import in_parts, whole
from semantic.adapters.store.schema import PINNED
from semantic.adapters.store.veil import Veil
from semantic.domain.native import TokenIds
from semantic.domain.stored import NewBlock

__all__ = ["Soundness", "follows"]

_KEY_BYTES = 32
_FULL_CHECK_BYTES = 16 << 20
"""A catalogue of some 4,500 blocks: larger ones would keep a store from opening for too long."""


def _of_types(**columns: str) -> str:
    """What finds rows whose values have other types, columns in words."""
    return " OR ".join(
        f"typeof({column}) != '{kind}'"
        for kind, names in columns.items()
        for column in names.split()
    )


_WRONG_VALUES = {
    "nodes": _of_types(blob="key namespace parent tokens", integer="n_tokens"),
    "blocks": _of_types(
        text="file layer_group state owner",
        blob="key",
        integer="lo hi bytes is_bounded standing uses last_use used_at",
    )
    + f" OR bytes < 0 OR standing NOT BETWEEN 0 AND {PINNED}",
    "users": _of_types(blob="key agent"),
    "agents": _of_types(blob="namespace agent label", integer="priority is_ended used_at")
    + f" OR priority NOT BETWEEN 0 AND {PINNED}",
    "pins": _of_types(blob="namespace agent", text="owner"),
    "counts": _of_types(text="name", integer="value"),
}


def follows(key: bytes, parent: bytes, tokens: TokenIds, veil: Veil) -> bool:
    """Whether a hidden key is that of a token block with these tokens behind this parent."""
    if not tokens or len(parent) != _KEY_BYTES:
        return False
    return [veil.key(made) for made in tokens.keys(parent)] == [key]


class Soundness:
    """Checks a catalogue.

    Args:
        catalogue: The catalogue.
        veil: What the disk sees of names and values.
    """

    def __init__(self, catalogue: Catalogue, veil: Veil) -> None:
        self._database = catalogue.database
        self._veil = veil

    @property
    def is_cheap(self) -> bool:
        """Whether the catalogue is small enough to be checked whenever it is opened."""
        return self._database.disk_bytes <= _FULL_CHECK_BYTES

    def fault(self) -> str:
        """What is wrong with the file by itself; empty where nothing is.

        SQLite takes values of any type into any column, so it does not tell that.

        Raises:
            CachePersistenceError: The system refuses, or the file cannot be read at all.
        """
        ((found,),) = self._database.read("PRAGMA integrity_check(1)")
        if found != "ok":
            return str(found).splitlines()[0]
        for table, wrong in _WRONG_VALUES.items():
            if self._database.read(f"SELECT 1 FROM {table} WHERE {wrong} LIMIT 1"):
                return f"a row of {table} holds what nobody writes there"
        return ""

    def wrong_files(self) -> set[str]:
        """The files of blocks of which the catalogue says what cannot be."""
        misnamed = self._files(
            "SELECT file FROM blocks WHERE state = 'here' AND"
            " file != lower(hex(key)) || '-' || layer_group || '-' || lo || '-' || hi"
        )
        nowhere = self._files(
            "SELECT file FROM blocks WHERE state = 'here'"
            " AND NOT EXISTS (SELECT 1 FROM nodes n WHERE n.key = blocks.key)"
        )
        return {*misnamed, *nowhere, *self._of(self._wrong_nodes())}

    def is_sum_right(self) -> bool:
        """Whether the bytes of all blocks are those that the catalogue counts."""
        # In one question: others write between two.
        rows = self._database.read(
            "SELECT value = (SELECT coalesce(sum(bytes), 0) FROM blocks) FROM counts"
            " WHERE name = 'bytes'"
        )
        return rows == [(1,)]

    def count_again(self, sizes: dict[str, int]) -> None:
        """Let the catalogue count the bytes that the files have.

        Args:
            sizes: The bytes of each file.
        """
        with self._database.transaction() as run:
            run.executemany(
                "UPDATE blocks SET bytes = ? WHERE file = ? AND state = 'here'",
                [(size, file) for file, size in sizes.items()],
            )
            run.execute("DELETE FROM counts WHERE name = 'bytes'")
            run.execute("INSERT INTO counts SELECT 'bytes', coalesce(sum(bytes), 0) FROM blocks")

    def agrees(self, file: str, block: NewBlock, n_bytes: int) -> bool:
        """Whether what the catalogue says of a file is what its header says."""
        rows = self._database.read(
            "SELECT b.key, b.layer_group, b.lo, b.hi, b.is_bounded, b.bytes, n.namespace, n.parent,"
            " n.tokens, n.n_tokens FROM blocks b LEFT JOIN nodes n USING (key)"
            " WHERE b.file = ? AND b.state = 'here'",
            (file,),
        )
        if not rows:
            return True  # it is on its way, or gone meanwhile
        *said, tokens, n_tokens = rows[0]
        name, key = block.name, self._veil.key
        facts = (key(name.key), name.group, name.lo, name.hi, int(block.is_bounded), n_bytes)
        return (
            tuple(said) == (*facts, key(block.namespace), key(block.parent))
            and n_tokens == len(block.tokens)
            and isinstance(tokens, bytes)
            and self._veil.tokens(tokens) == block.tokens
        )

    def _wrong_nodes(self) -> list[bytes]:
        wrong: list[bytes] = []
        last = 0
        while True:
            # In parts: whoever asks something else meanwhile does not wait for the end.
            rows = self._database.read(
                "SELECT rowid, key, parent, tokens, n_tokens FROM nodes WHERE rowid > ?"
                " ORDER BY rowid LIMIT 1000",
                (last,),
                (int, bytes, bytes, bytes, int),
            )
            if not rows:
                return wrong
            last = whole(rows[-1][0])
            for _, key, parent, sealed, n_tokens in rows:
                tokens = self._veil.tokens(sealed)
                # Where names are hidden, what was sealed with the key is what was written.
                is_right = self._veil.secret is not None or follows(key, parent, tokens, self._veil)
                if not is_right or len(tokens) != n_tokens or not n_tokens:
                    wrong.append(key)

    def _of(self, keys: Sequence[bytes]) -> set[str]:
        found: set[str] = set()
        for some in in_parts(keys):
            places = ",".join("?" * len(some))
            where = f"SELECT file FROM blocks WHERE state = 'here' AND key IN ({places})"
            found |= set(self._files(where, some))
        return found

    def _files(self, statement: str, values: Sequence[object] = ()) -> list[str]:
        return [file for (file,) in self._database.read(statement, values, (str,))]
