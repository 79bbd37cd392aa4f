"""Each behaviour is asked of the native pool and of the reference."""

from __future__ import annotations

import pytest

from semantic.domain.services import BlockPool, MemoryBudget
from semantic.testing.reference_budget import ReferenceBudget
from semantic.testing.reference_pool import ReferencePool

AnyPool = BlockPool | ReferencePool
AnyBudget = MemoryBudget | ReferenceBudget

_POOLS: dict[str, type[AnyPool]] = {"native": BlockPool, "reference": ReferencePool}
_BUDGETS: dict[str, type[AnyBudget]] = {"native": MemoryBudget, "reference": ReferenceBudget}


@pytest.fixture(params=list(_POOLS))
def kind(request: pytest.FixtureRequest) -> str:
    """Which of the two it is."""
    return str(request.param)


@pytest.fixture
def pool_class(kind: str) -> type[AnyPool]:
    """The class of pools."""
    return _POOLS[kind]


@pytest.fixture
def budget_class(kind: str) -> type[AnyBudget]:
    """The class of budgets that such pools share."""
    return _BUDGETS[kind]
