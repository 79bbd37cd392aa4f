"""The mlx-lm door: the drop-in prompt cache."""

from semantic.adapters.mlx_lm.prompt_cache import PromptCache

__all__ = ["PromptCache"]
