"""The MLX door: geometry of models, the MLX side of the memory, real namespaces."""

from semantic.adapters.mlx.layout import spec_of_caches
from semantic.adapters.mlx.materialise import MlxMaterialiser
from semantic.adapters.mlx.namespace import namespace
from semantic.adapters.mlx.padding import states_take_padding
from semantic.adapters.mlx.probe import probe, spec_from_config

__all__ = [
    "MlxMaterialiser",
    "namespace",
    "probe",
    "spec_from_config",
    "spec_of_caches",
    "states_take_padding",
]
