"""Blocks as files: what is written beside the tensors, and what is made of it again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from semantic.domain.block_bytes import TensorBytes, tensor_of_file
from semantic.domain.errors import BlockValidationError, CacheCorruptionError
from semantic.domain.layer_group import BLOCK_TOKENS, LayerType
from semantic.domain.native import BlockFile, TokenIds
from semantic.domain.stored import BlockName, NewBlock

__all__ = [
    "WrittenBlock",
    "described",
    "has_tensors",
    "is_block",
    "memory_of",
    "most_bytes",
    "written",
]

_HEADER_BYTES = 2048
_TENSOR_BYTES = 256
_SEALED_PART = 4096
"""Each record of 64 KiB takes 16 bytes more where it is sealed."""
_SEALED_BYTES = 64
_LAST = (1 << 63) - 1
"""The last position that a catalogue can name."""
_TOKEN_DIGITS = 21
"""Of a signed 64-bit number, with its comma."""
_AXES = 4
"""Of a tensor that grows with the tokens: layers, heads, rows, width."""
_WORDS = {True: "true", False: "false"}

WrittenTensor = tuple[str, str, Sequence[int], memoryview, tuple[int, int, int, int, int]]
WrittenBlock = tuple[str, dict[str, str], list[WrittenTensor]]
"""What `BlockFolder.write` takes for a block."""


def written(file: str, block: NewBlock) -> WrittenBlock:
    """A block as the native store takes it, for a file of that name.

    Raises:
        BlockValidationError: A name of a layer group that no file can have.
    """
    if BlockName.parse(str(block.name)) is None:
        raise BlockValidationError(
            f"a block of the layer group {block.name.group!r} cannot be stored: the name of a"
            " group is made of letters, digits, points and underscores"
        )
    tensors: list[WrittenTensor] = [
        (tensor.name, tensor.file_dtype, tensor.file_shape, memory, tensor.rows)
        for tensor, memory in block.tensors
    ]
    return file, _metadata(block), tensors


def _metadata(block: NewBlock) -> dict[str, str]:
    """What a file says of its block."""
    name = block.name
    return {
        "namespace": block.namespace.hex(),
        "key": name.key.hex(),
        "parent": block.parent.hex(),
        "tokens": _spelled(block.tokens),
        "layer_group": name.group,
        "layer_type": block.layer_type,
        "is_bounded": _WORDS[block.is_bounded],
        "lo": str(name.lo),
        "hi": str(name.hi),
    }


def most_bytes(block: NewBlock) -> int:
    """How large its file is at the most."""
    payload = sum(tensor.file_bytes for tensor, _ in block.tensors)
    header = _HEADER_BYTES + _TENSOR_BYTES * len(block.tensors)
    plain = header + payload + _TOKEN_DIGITS * len(block.tokens)
    return plain + plain // _SEALED_PART + _SEALED_BYTES


def is_block(file: BlockFile, name: BlockName, tokens: TokenIds) -> bool:
    """Whether a file holds this block: of these very tokens."""
    said = file.metadata
    return (
        said.get("key") == name.key.hex()
        and said.get("tokens") == _spelled(tokens)
        and said.get("layer_group") == name.group
        and (said.get("lo"), said.get("hi")) == (str(name.lo), str(name.hi))
    )


def has_tensors(file: BlockFile, tensors: Sequence[TensorBytes]) -> bool:
    """Whether a file holds these tensors, each of this type and shape."""
    expected = [(tensor.name, tensor.file_dtype, list(tensor.file_shape)) for tensor in tensors]
    return sorted(file.tensors) == sorted(expected)


def described(file: BlockFile) -> NewBlock | None:
    """The block of a file, without its tensors; None when it contradicts itself."""
    said = file.metadata
    try:
        tokens = TokenIds([int(token) for token in said["tokens"].split(",")])
        parent, namespace = bytes.fromhex(said["parent"]), bytes.fromhex(said["namespace"])
        name = BlockName(
            bytes.fromhex(said["key"]), said["layer_group"], int(said["lo"]), int(said["hi"])
        )
        block = NewBlock(
            name,
            parent,
            namespace,
            tokens,
            said["layer_type"],
            said["is_bounded"] == _WORDS[True],
            (),
        )
        is_right = tokens.keys(parent) == [name.key] and _metadata(block).items() <= said.items()
    except (KeyError, ValueError, BlockValidationError):
        return None
    return block if is_right and _is_placed(block, file) else None


def _is_placed(block: NewBlock, file: BlockFile) -> bool:
    """Whether its positions lie within its token block, and its tensors have the axes for them."""
    name = block.name
    start = name.lo // BLOCK_TOKENS * BLOCK_TOKENS
    is_first = block.parent == block.namespace
    is_root = len(block.namespace) == len(block.parent)
    is_within = 0 <= name.lo < name.hi <= start + len(block.tokens) <= _LAST
    if not (is_within and is_root and is_first == (start == 0)):
        return False
    if block.layer_type not in get_args(LayerType):
        return False
    if block.layer_type == "state":
        return name.lo == name.hi - 1
    return all(len(shape) == _AXES for _, _, shape in file.tensors)


def memory_of(file: BlockFile) -> list[tuple[TensorBytes, memoryview]]:
    """Fresh memory for the tensors of a file, as they are there.

    Raises:
        CacheCorruptionError: Elements of a type that MLX lacks.
    """
    tensors = []
    for name, dtype, shape in file.tensors:
        tensor = tensor_of_file(name, dtype, shape)
        if tensor is None:
            raise CacheCorruptionError(f"its tensor {name!r} has elements of type {dtype}")
        tensors.append((tensor, memoryview(bytearray(tensor.file_bytes))))
    return tensors


def _spelled(tokens: TokenIds) -> str:
    return ",".join(str(token) for token in tokens.tolist())
