"""Run the suites that touch MLX against several releases of mlx-lm, each in its own environment.

The environments lie in `.venvs/` and are kept for the next run. What is tested is the built wheel:
an environment that imports `semantic` from anywhere else is an error. Without arguments every
supported release is tested; `make test-releases` builds the wheel first.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import venv
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["RELEASES", "TESTS", "Outcome", "Release", "main"]

RELEASES = (
    "0.31.1/0.30.4",
    "0.31.1",
    "0.31.2",
    "0.31.3",
    "0.32.0",
    "0.32.1",
    "0.32.2",
)
"""Supported releases of mlx-lm, each with the newest mlx or with the one after the slash."""

TESTS = (
    "tests/seam",
    "tests/contract/test_prompt_cache.py",
    "tests/unit/test_cache_manager.py",
    "tests/unit/test_model_cache_spec.py",
    "tests/unit/test_namespace.py",
    "tests/unit/test_presets.py",
)
"""What depends on MLX or mlx-lm, from the root of the repository."""

ROOT = Path(__file__).resolve().parent.parent
_ENVIRONMENTS = ROOT / ".venvs"
_RUNNERS = ("pytest>=8.3", "pytest-timeout>=2.3")
_PYTEST = (
    *("-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider"),
    # A module that an old release cannot import is one failure, not the end of the run.
    "--continue-on-collection-errors",
)
_WHO = """
import importlib.metadata as metadata, semantic
print(semantic.__file__, metadata.version("mlx-lm"), metadata.version("mlx"), sep="\\n")
"""


class SetupError(Exception):
    """A release could not be tested at all; says why."""


@dataclass(frozen=True, slots=True)
class Release:
    """A release of mlx-lm, and the mlx to pair it with.

    Attributes:
        mlx_lm: Version of mlx-lm.
        mlx: Version of mlx; None for the newest that mlx-lm accepts.
    """

    mlx_lm: str
    mlx: str | None = None

    @classmethod
    def parse(cls, text: str) -> Release:
        """Read `0.32.2` or `0.31.1/0.30.4`."""
        mlx_lm, _, mlx = text.partition("/")
        return cls(mlx_lm, mlx or None)

    @property
    def name(self) -> str:
        """Names the release, and its environment."""
        return f"mlx-lm-{self.mlx_lm}" + (f"-mlx-{self.mlx}" if self.mlx else "")

    @property
    def requirements(self) -> list[str]:
        """What pip has to install for it."""
        pinned = [f"mlx-lm=={self.mlx_lm}"]
        return [*pinned, f"mlx=={self.mlx}"] if self.mlx else pinned


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one release.

    Attributes:
        release: The release.
        text: Versions and counts, or why there are none.
        ok: Whether every test passed or was skipped.
        seconds: How long it took, installing included.
    """

    release: Release
    text: str
    ok: bool
    seconds: float

    def __str__(self) -> str:
        verdict = "ok    " if self.ok else "FAILED"
        return f"{verdict}  {self.release.name:<26}  {self.text}  ({self.seconds:.0f} s)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Test the releases one after the other and print a line on each; 1 when any failed."""
    options = _parser().parse_args(arguments)
    wheel = options.wheel or _newest_wheel()
    if wheel is None or not wheel.is_file():
        print(f"{wheel or 'dist/*.whl'}: no such wheel; run `make wheel` first", file=sys.stderr)
        return 1
    releases = [Release.parse(text) for text in options.releases or RELEASES]
    outcomes = [_test(release, wheel.resolve(), options.k) for release in releases]
    print(f"\n{wheel.name} against {len(outcomes)} releases of mlx-lm:")
    print(*outcomes, sep="\n")
    return 0 if all(outcome.ok for outcome in outcomes) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "releases",
        nargs="*",
        metavar="RELEASE",
        help="a version of mlx-lm such as 0.32.2, or with its mlx as in 0.31.1/0.30.4 "
        f"(default: {' '.join(RELEASES)})",
    )
    parser.add_argument(
        "--wheel", type=Path, help="the wheel to test (default: the newest in dist/)"
    )
    parser.add_argument("-k", metavar="EXPRESSION", help="only the tests that match, as in pytest")
    return parser


def _newest_wheel() -> Path | None:
    wheels = (ROOT / "dist").glob("semantic_kv-*.whl")
    return max(wheels, key=lambda path: path.stat().st_mtime, default=None)


def _test(release: Release, wheel: Path, expression: str | None) -> Outcome:
    begin = time.monotonic()
    print(f"\n=== {release.name} ===", flush=True)
    try:
        python = _environment(release, wheel)
        versions = _versions(python)
        counts, ok = _run_pytest(python, expression)
        text = f"{versions}: {counts}"
    except SetupError as error:
        text, ok = str(error), False
    outcome = Outcome(release, text, ok, time.monotonic() - begin)
    print(outcome, flush=True)
    return outcome


def _environment(release: Release, wheel: Path) -> Path:
    """The interpreter of the release's environment, with this very wheel in it."""
    folder = _ENVIRONMENTS / release.name
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"making {folder.relative_to(ROOT)}", flush=True)
        venv.create(folder, with_pip=True)
    _pip(python, f"{wheel}[serve,testing]", *release.requirements, *_RUNNERS)
    # The wheel of an earlier run has the same version: pip would keep it.
    _pip(python, "--force-reinstall", "--no-deps", str(wheel))
    return python


def _pip(python: Path, *arguments: str) -> None:
    quiet = ("--quiet", "--disable-pip-version-check")
    if _run(python, "-m", "pip", "install", *quiet, *arguments).returncode:
        raise SetupError("pip could not install it, see above")


def _versions(python: Path) -> str:
    """The versions in use, once it is certain that the installed package is the one imported."""
    found = _run(python, "-c", _WHO, stdout=subprocess.PIPE)
    if found.returncode:
        raise SetupError("semantic or mlx-lm cannot be imported, see above")
    file, mlx_lm, mlx = found.stdout.splitlines()
    if not Path(file).is_relative_to(python.parent.parent):
        raise SetupError(f"semantic is imported from {file}, not from the wheel")
    return f"mlx-lm {mlx_lm}, mlx {mlx}"


def _run_pytest(python: Path, expression: str | None) -> tuple[str, bool]:
    report = python.parent.parent / "report.xml"
    report.unlink(missing_ok=True)
    chosen = ["-k", expression] if expression else []
    code = _run(python, *_PYTEST, f"--junitxml={report}", *chosen, *TESTS).returncode
    if not report.exists():
        raise SetupError(f"pytest ended with {code} and without a report")
    return _counts(report), code == 0


def _counts(report: Path) -> str:
    suites = ET.parse(report).getroot().iter("testsuite")
    numbers = [
        {key: int(suite.attrib[key]) for key in ("tests", "failures", "errors", "skipped")}
        for suite in suites
    ]
    total = {key: sum(number[key] for number in numbers) for key in numbers[0]}
    failed = total["failures"] + total["errors"]
    passed = total["tests"] - failed - total["skipped"]
    return f"{passed} passed, {failed} failed, {total['skipped']} skipped"


def _run(
    python: Path, *arguments: str, stdout: int | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(python), *arguments],
        cwd=ROOT,
        env=environment,
        stdout=stdout,
        text=True,
        check=False,
    )


if __name__ == "__main__":
    raise SystemExit(main())
