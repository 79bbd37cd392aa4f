"""Models whose recurrent states take padding for tokens: their prompts are prefilled one by one."""

from __future__ import annotations

import logging
from typing import Any

from semantic.adapters.mlx.padding import states_take_padding

__all__ = ["unpadded_generator"]

_log = logging.getLogger("semantic.serve")


def unpadded_generator(generator_class: type[Any]) -> type[Any]:
    """A BatchGenerator that prefills one prompt at a time where padding would spoil the states.

    Decoding stays batched: there nothing is padded but keys and values, which are masked.

    Args:
        generator_class: mlx-lm's BatchGenerator, or a subclass.
    """

    # The base is whatever class the installed mlx-lm has: known at run time only.
    class UnpaddedBatchGenerator(generator_class):  # type: ignore[misc]
        """The server's batch, without padded states."""

        def __init__(self, model: Any, *args: Any, **options: Any) -> None:
            super().__init__(model, *args, **options)
            if _must_not_be_padded(model):
                self.prefill_batch_size = 1

    return UnpaddedBatchGenerator


def _must_not_be_padded(model: Any) -> bool:
    try:
        takes_padding = states_take_padding(model)
    except Exception:
        _log.exception("%s could not be tried with padding", type(model).__module__)
        takes_padding = True
    if takes_padding:
        _log.warning("%s: prompts are prefilled one by one", type(model).__module__)
    return takes_padding
