"""What mlx-lm's architectures lack to run without Metal, or without a package, for tests only.

Each stand-in computes what it stands for, by ordinary operations; none of them sees a cache. Where
the real thing works, it stays.
"""

from semantic.testing.stand_ins.installer import cpu_stand_ins, install

__all__ = ["cpu_stand_ins", "install"]
