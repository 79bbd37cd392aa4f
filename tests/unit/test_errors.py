"""The error tree: one root, numbers as attributes, builtins where a caller expects them."""

from __future__ import annotations

import inspect
import pickle

import pytest

from semantic.domain import errors

TREE = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("kind", TREE)
def test_errors_survive_pickling_with_their_facts(kind):
    error = kind("what was wrong", block_id=3, bytes_short=5, agent_id="a")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error) == "what was wrong"
    assert (copy.block_id, copy.bytes_short, copy.agent_id) == (3, 5, "a")


def test_there_is_one_root():
    assert all(issubclass(kind, errors.SemanticError) for kind in TREE)
    assert all(kind.__doc__ for kind in TREE)
    defined = {n for n, v in vars(errors).items() if inspect.isclass(v)}
    assert defined == set(errors.__all__)
    assert all(kind.__name__ in errors.__doc__ for kind in TREE)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.BlockOperationError, ValueError),
        (errors.BlockArgumentTypeError, TypeError),
        (errors.PoolConfigurationError, ValueError),
        (errors.ModelSpecValidationError, ValueError),
        (errors.BlockValidationError, ValueError),
        (errors.IncompatibleCacheError, ValueError),
        (errors.AgentNotFoundError, KeyError),
    ],
)
def test_builtins_that_a_caller_expects(kind, builtin):
    assert issubclass(kind, builtin)
