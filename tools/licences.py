"""The licence policy: what may be linked into, or installed beside, an Apache-2.0 package.

Rust: the SPDX expression of every crate in Cargo.lock, from `cargo metadata`. Python: what the
metadata of every distribution in this environment says, as an SPDX expression, a field or
classifiers. Run by `make licences`; whatever is not allowed fails by name.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import Distribution, distributions

from license_expression import ExpressionError, get_spdx_licensing

SPDX = {
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CNRI-Python",
    "HPND",
    "ISC",
    "MIT",
    "MIT-0",
    "MIT-CMU",
    "MPL-2.0",
    "PSF-2.0",
    "Python-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
}
"""Allowed by SPDX name. MPL-2.0 is allowed for what is installed beside us, unmodified."""

WORDED = re.compile(
    r"\b(apache|mit|bsd|psf|isc|mozilla public license 2|mpl|zlib|unlicense|hpnd)\b"
    r"|python software foundation",
    re.IGNORECASE,
)
"""Allowed where the metadata only words it."""

REVIEWED: dict[str, str] = {}
"""Distributions whose metadata says too little: name to the reason why they may stay."""

_spdx = get_spdx_licensing()


def allowed_expression(expression: str) -> bool:
    """Whether an SPDX expression can be met with allowed licences alone."""
    try:
        return _met(_spdx.parse(expression.replace("/", " OR ")))
    except ExpressionError:
        return False


def _met(node: object) -> bool:
    # The library's nodes are classes made at run time: told apart by name, their args untyped.
    operator = type(node).__name__
    if operator == "AND":
        return all(map(_met, node.args))  # type: ignore[attr-defined]
    if operator == "OR":
        return any(map(_met, node.args))  # type: ignore[attr-defined]
    return str(node) in SPDX


def refused_crates() -> dict[str, str]:
    """Crates whose licence is not allowed, with what they say."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    metadata = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return {
        f"crate {package['name']}": package["license"] or "no licence"
        for package in metadata["packages"]
        if not allowed_expression(package["license"] or "")
    }


def refused_distributions() -> dict[str, str]:
    """Python distributions whose licence is not allowed, with what they say."""
    return {
        distribution.metadata["Name"]: _words(distribution) or "no licence in its metadata"
        for distribution in distributions()
        if distribution.metadata["Name"] not in REVIEWED and not _allowed(distribution)
    }


def _allowed(distribution: Distribution) -> bool:
    expression = distribution.metadata.get("License-Expression")
    if expression:
        return allowed_expression(expression)
    words = _words(distribution)
    return allowed_expression(words) or bool(WORDED.search(words))


def _words(distribution: Distribution) -> str:
    metadata = distribution.metadata
    classifiers = [c for c in metadata.get_all("Classifier") or [] if c.startswith("License ::")]
    field = (metadata.get("License") or "").strip().splitlines()[:1]
    return "; ".join([*field, *classifiers])


def main() -> int:
    """Print each refused licence; 1 when there is one."""
    refused = refused_crates() | refused_distributions()
    for name, licence in sorted(refused.items()):
        print(f"{name}: {licence} is not in the policy", file=sys.stderr)
    print(f"licences: {f'{len(refused)} refused' if refused else 'all allowed'}")
    return 1 if refused else 0


if __name__ == "__main__":
    raise SystemExit(main())
