"""Blocks that are about to be read: writable memory, and zeros wherever no file will write."""

from __future__ import annotations

from typing import Any

import pytest

from semantic import LayerGroup, StateTensor, TokenTensor
from semantic.domain.block_bytes import tensors_of_block

mx: Any = pytest.importorskip("mlx.core")
from semantic.adapters.mlx.block_memory import MlxBlockMemory  # noqa: E402 (it imports mlx)

TENSORS = (
    TokenTensor("keys", 2, 8, "bfloat16"),
    TokenTensor("scales", 2, 1, "float16"),
    TokenTensor("packed", 2, 3, "uint32"),
    TokenTensor("nothing", 2, 0, "float32"),
)
GROUP = LayerGroup("global", "global", (0, 1, 2), TENSORS)
STATE = LayerGroup("state", "state", (0,), (StateTensor("slot_0", (3, 4), "float32"),))


@pytest.mark.parametrize("is_refused", [False, True])
@pytest.mark.parametrize("group", [GROUP, STATE], ids=["rows", "state"])
@pytest.mark.parametrize(("lo", "hi"), [(0, 256), (256, 300), (300, 512)])
def test_fresh_memory_is_writable_and_zero_where_no_row_is_valid(
    group: LayerGroup, lo: int, hi: int, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_refused:
        monkeypatch.setattr(mx, "load", lambda *_, **__: {})
    # Memory that was used before is what MLX takes next.
    used = [mx.full((3, 2, 256, 8), 7, dtype=mx.bfloat16) for _ in range(8)]
    mx.eval(used)
    del used
    tensors = tensors_of_block(group, lo, hi)
    data, memory = MlxBlockMemory().fresh(tensors)
    assert list(data) == [tensor.name for tensor in tensors]
    for tensor, buffer in memory:
        array: Any = data[tensor.name]
        assert (array.shape, array.dtype) == (tensor.memory_shape, getattr(mx, tensor.dtype))
        if tensor.valid < tensor.room:
            assert not mx.any(array != 0).item()
        if buffer.nbytes:
            buffer.cast("B")[:] = b"\1" * buffer.nbytes
            assert mx.all(array.view(mx.uint8) == 1).item()


def test_whole_tensors_are_not_filled_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    filled: list[tuple[int, ...]] = []
    zeros = mx.zeros
    monkeypatch.setattr(mx, "zeros", lambda shape, **kw: filled.append(shape) or zeros(shape, **kw))
    MlxBlockMemory().fresh(tensors_of_block(GROUP, 0, 256)[:3])
    assert filled == []
    MlxBlockMemory().fresh(tensors_of_block(GROUP, 0, 255)[:3])
    assert len(filled) == 3


@pytest.mark.parametrize("hi", [256, 255], ids=["whole", "padded"])
def test_memory_is_made_where_the_processor_may_write_it(
    hi: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams: list[object] = []

    def watched(make: Any) -> Any:
        def made(*args: Any, stream: object = None, **options: Any) -> Any:
            streams.append(stream)
            return make(*args, stream=stream, **options)

        return made

    for name in ("load", "zeros"):
        monkeypatch.setattr(mx, name, watched(getattr(mx, name)))
    MlxBlockMemory().fresh(tensors_of_block(GROUP, 0, hi))
    assert streams
    assert all(stream == mx.cpu for stream in streams)
