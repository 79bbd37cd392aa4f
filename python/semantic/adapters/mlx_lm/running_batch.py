"""How much the server's running batch holds: read on the generation thread, after each step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["metered_generator"]


def metered_generator(generator_class: type[Any], report: Callable[[int], None]) -> type[Any]:
    """A BatchGenerator that reports the bytes of its caches after every step and at its end.

    Args:
        generator_class: mlx-lm's BatchGenerator, or what stands in for it.
        report: Called with `prompt_cache_nbytes`, on the thread that generates.
    """

    # The base is whatever class the installed mlx-lm has: known at run time only.
    class MeteredBatchGenerator(generator_class):  # type: ignore[misc]
        """The server's batch, with a meter."""

        def next(self) -> Any:
            responses = super().next()
            report(self.prompt_cache_nbytes)
            return responses

        def close(self) -> None:
            super().close()
            report(0)

    return MeteredBatchGenerator
