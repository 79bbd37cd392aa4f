"""The story of a demo from the model to the verdict."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from tokenizers import Tokenizer

from semantic.cli.demo.agents import run_pass
from semantic.cli.demo.picture import draw
from semantic.cli.demo.report import print_report, print_restart, write_json
from semantic.cli.demo.server import ServerProcess
from semantic.cli.demo.turns import Pass, Settings
from semantic.cli.demo.verdict import problems
from semantic.testing.handbook import handbook_prompt
from semantic.testing.tiny_models import gemma3_demo

__all__ = ["tell"]

_STOCK = ("-m", "mlx_lm", "server")
_OURS = ("-m", "semantic.cli", "serve")
# On a CPU, scores of 2,048 x 2,048 cost more than the rest; the same for both servers.
_PREFILL = ("--prefill-step-size", "512")
_STORED_SECONDS = 30.0
_SETTLE_SECONDS = 0.5


def tell(settings: Settings, out: Path, cache_folder: Path, *, rows: Path | None) -> list[str]:
    """Run the whole demo and print it.

    Args:
        settings: How large it is.
        out: Folder for logs and the picture.
        cache_folder: Folder for the model.
        rows: File for the raw numbers, if any.

    Returns:
        What went wrong, one line each.

    Raises:
        DemoError: When a server fails.
        OSError: When a folder or file cannot be written.
    """
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    if rows is not None:
        rows.parent.mkdir(parents=True, exist_ok=True)
        rows.touch()  # a path that cannot be written is told now, not after minutes
    model = gemma3_demo(cache_folder)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    prompt = handbook_prompt(settings.system_tokens, lambda text: len(tokenizer.encode(text).ids))
    console.print(
        f"{settings.agents} agents share a system prompt of {len(tokenizer.encode(prompt).ids)} "
        f"tokens and take {settings.turns} turns each. Model: {model}"
    )
    options = ("--model", str(model), *_PREFILL)
    ours_command = (*_OURS, *options, "--kv-memory", str(settings.kv_memory_bytes))
    passes = _passes(console, settings, prompt, out, options, ours_command)
    stock, ours, together, *restarted = passes

    wrong = problems(stock, ours, *restarted)
    print_report(console, stock, ours, together)
    for one in restarted:
        print_restart(console, settings, stock, one)
    picture = out / "pool.png"
    draw(picture, [ours, together])
    console.print(f"Picture: {picture}   Server logs: {out}/*.log")
    if rows is not None:
        write_json(rows, settings, passes, wrong)
        console.print(f"Rows: {rows}")
    _print_verdict(console, wrong, shared=settings.agents > 1, is_restarted=bool(restarted))
    return wrong


def _passes(
    console: Console,
    settings: Settings,
    prompt: str,
    out: Path,
    options: Sequence[str],
    ours_command: Sequence[str],
) -> list[Pass]:
    """Against stock, ours, ours all at once and, of two turns or more, ours killed half-way."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress, TemporaryDirectory(dir=out) as store:

        def one_pass(
            name: str,
            command: Sequence[str],
            *,
            at_once: bool = False,
            stats: bool = False,
            is_killed: bool = False,
        ) -> Pass:
            task = progress.add_task(name, total=settings.agents * settings.turns)
            log_name = name.replace(" ", "-")
            with ServerProcess(log_name, command, out) as server:
                return run_pass(
                    name,
                    server.client,
                    settings,
                    prompt,
                    at_once=at_once,
                    has_stats=stats,
                    on_turn=lambda _: progress.advance(task),
                    halfway=partial(_killed, server) if is_killed else None,
                )

        passes = [
            one_pass("stock", (*_STOCK, *options)),
            one_pass("semantic", ours_command, stats=True),
            one_pass("semantic at once", ours_command, at_once=True, stats=True),
        ]
        if settings.rounds_before_restart:
            command = (*ours_command, "--store", store)
            passes.append(one_pass("semantic killed", command, is_killed=True))
        return passes


def _killed(server: ServerProcess) -> None:
    """Kill the server once the last turn is stored: what is not stored is computed again."""
    deadline = time.monotonic() + _STORED_SECONDS
    last, now = None, server.client.stats()
    while (now["store"]["waiting"] or now != last) and time.monotonic() < deadline:
        time.sleep(_SETTLE_SECONDS)  # a turn is stored after its client has gone
        last, now = now, server.client.stats()
    server.kill_and_start_again()


def _print_verdict(console: Console, wrong: list[str], *, shared: bool, is_restarted: bool) -> None:
    if not wrong:
        kill = ", also after a kill and a restart" if is_restarted else ""
        rest = ", and the shared prompt was shared" if shared else ""
        console.print(f"[green]Every text equals stock{kill}{rest}.[/]")
        return
    console.print(f"[bold red]{len(wrong)} problem(s):[/]")
    for line in wrong:
        console.print(f"  {line}", markup=False, highlight=False)
