"""`python -m grok_conformance.reference.checkpoint`: look into a checkpoint, convert it, or synthesise one (SPEC §8).

Exit status 0, or 2 with one line that says what is wrong.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from grok_conformance.reference.checkpoint.convert import from_safetensors, to_safetensors
from grok_conformance.reference.checkpoint.index import INDEX_NAME, read_index, verify
from grok_conformance.reference.checkpoint.layout import describe, find_folder, find_leaves, tensor_files
from grok_conformance.reference.checkpoint.pickles import CheckpointError, decode
from grok_conformance.reference.checkpoint.synthesis import synthesize, unique_bytes
from grok_conformance.reference.config import PRESETS

UNKNOWN = "(no index, no --config)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0, or 2 for a checkpoint that does not hold what it should."""
    logging.basicConfig(format="%(message)s")
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except CheckpointError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except BrokenPipeError:  # the reader of the table has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m grok_conformance.reference.checkpoint", description=__doc__.partition("\n")[0]
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("inspect", help="print a table of the files; nothing is executed, no array is read")
    command.add_argument("directory", type=Path, help="the checkpoint, or the folder around its ckpt-0")
    command.add_argument("--config", choices=PRESETS, help="compare every leaf with this configuration")
    command.add_argument("--verify", action="store_true", help="compare the digest of every file with the index")
    command.set_defaults(run=_inspect)

    command = commands.add_parser("convert", help="write a checkpoint as a safetensors file, or the reverse")
    command.add_argument("source", type=Path, help="a checkpoint, or a file FILE.safetensors")
    command.add_argument("destination", type=Path, help="FILE.safetensors, or the folder to put ckpt-0 into")
    command.add_argument("--config", choices=PRESETS, required=True, help="the configuration")
    command.set_defaults(run=_convert)

    command = commands.add_parser("synthesize", help="write a checkpoint of random weights with realistic statistics")
    command.add_argument("directory", type=Path, help="the folder to put ckpt-0 into")
    command.add_argument("--config", choices=PRESETS, required=True, help="the configuration")
    command.add_argument("--distinct-layers", type=int, metavar="N", help="make N layers and share them by hard links")
    command.add_argument("--seed", type=int, default=0, help="of the random weights (default: 0)")
    command.set_defaults(run=_synthesize)
    return top


def _inspect(options: argparse.Namespace) -> None:
    folder = find_folder(options.directory)
    index = read_index(folder)
    parameters = {entry.file: entry.parameter for entry in index or ()}
    if options.config:
        leaves = find_leaves(folder, PRESETS[options.config])
        parameters = {leaf.path.name: f"{leaf.module}/{leaf.name}" for leaf in leaves}
    names = tensor_files(folder)
    width = max(len(parameters.get(name, UNKNOWN)) for name in names)
    total_bytes = 0
    for name in names:
        stored, num_bytes = decode(folder / name), (folder / name).stat().st_size
        total_bytes += num_bytes
        content = describe(stored.weight, stored.scales)
        print(f"{name}  {parameters.get(name, UNKNOWN):{width}}  {num_bytes:>13,}  {content}")
    print(f"{len(names)} leaves, {total_bytes:,} bytes, {'with' if index else 'without'} index")
    if options.verify:
        if index is None:
            raise CheckpointError(f"{folder}: no {INDEX_NAME} to verify the files with")
        verify(folder, index)
        print("every file has the sha256 of the index")


def _convert(options: argparse.Namespace) -> None:
    config = PRESETS[options.config]
    convert = to_safetensors if options.source.is_dir() else from_safetensors
    with _progress("converting", unique_bytes(config)) as advance:
        convert(options.source, config, options.destination, advance)


def _synthesize(options: argparse.Namespace) -> None:
    config = PRESETS[options.config]
    with _progress("synthesising", unique_bytes(config, options.distinct_layers)) as advance:
        synthesize(
            options.directory, config, distinct_layers=options.distinct_layers, seed=options.seed, progress=advance
        )


@contextmanager
def _progress(what: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
    """Show a person the bytes done, the speed and the time left; yields the function that counts bytes."""
    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total_bytes)
        yield lambda num_bytes: progress.advance(task, num_bytes)


if __name__ == "__main__":
    sys.exit(main())
