"""The licence policy for Python: what may be installed beside an Apache-2.0 package.

Reads the licence of every distribution in this environment from its own metadata. Run by
`make licences`; a licence that is not in the policy fails, by name.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, distributions

ALLOWED = re.compile(
    r"apache|\bmit\b|mit-cmu|\bbsd\b|bsd-?[0-9]|0bsd|\bpsf\b|python software|\bisc\b|mpl"
    r"|mozilla public|zlib|unlicense|cc0|hpnd|openblas|public domain",
    re.IGNORECASE,
)
FORBIDDEN = re.compile(r"affero|\bagpl|(?<!lesser )general public|\bgpl|proprietary", re.IGNORECASE)

REVIEWED = {
    # Name -> why it may stay although its metadata says too little.
    "mlx-cpu": "MIT, by the MLX repository's own LICENSE; the wheel carries no field",
}


def licence_of(distribution: Distribution) -> str:
    """The licence as the metadata words it: expression, field, and classifiers."""
    metadata = distribution.metadata
    classifiers = [c for c in metadata.get_all("Classifier") or [] if c.startswith("License ::")]
    text = (metadata.get("License") or "").strip().splitlines()
    parts = [metadata.get("License-Expression") or "", *text[:1], *classifiers]
    return "; ".join(part for part in parts if part)


def verdict(name: str, licence: str) -> str | None:
    """Why this licence is not allowed; None when it is."""
    if name in REVIEWED:
        return None
    if not licence:
        return "no licence in its metadata"
    if FORBIDDEN.search(licence) and not ALLOWED.search(licence):
        return f"not allowed: {licence}"
    return None if ALLOWED.search(licence) else f"unknown: {licence}"


def main() -> int:
    """Print each refused distribution; 1 when there is one."""
    refused = {}
    for distribution in distributions():
        name = distribution.metadata["Name"].lower()
        reason = verdict(name, licence_of(distribution))
        if reason:
            refused[name] = reason
    for name, reason in sorted(refused.items()):
        print(f"{name}: {reason}", file=sys.stderr)
    print(f"python licences: {'refused' if refused else 'all allowed'}")
    return 1 if refused else 0


if __name__ == "__main__":
    raise SystemExit(main())
