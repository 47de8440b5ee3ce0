"""What `python -m grok_conformance.reference` does: load a model, answer requests, show how answers come (SPEC §6)."""

from __future__ import annotations

import argparse
import importlib
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from grok_conformance.reference.checkpoint import CheckpointError
from grok_conformance.reference.checkpoint.layout import DIRECTORY_NAME
from grok_conformance.reference.checkpoint.synthesis import synthesize
from grok_conformance.reference.config import PRESETS, LanguageModelConfig
from grok_conformance.reference.inference import check_tokens
from grok_conformance.reference.partitioning import make_mesh
from grok_conformance.reference.runner import InferenceRunner, ModelRunner, Request, pad_to_size

DEFAULT_TOKEN_IDS = [1, 2, 3]
"""The test input: without the published tokenizer there is no text."""

DEFAULT_CHECKPOINT = Path("checkpoint") / DIRECTORY_NAME
"""Where a checkpoint is looked for, from the folder in which the command is run."""


def answer(options: argparse.Namespace) -> int:
    """Answer the requests of the command line and return the exit status."""
    try:
        directory = find_checkpoint(options)
        name = options.config or ("small" if directory is None else "grok-1")
        tokenizer = load_tokenizer(options.tokenizer, PRESETS[name].vocab_size) if options.prompt else None
        given = options.token_ids or [DEFAULT_TOKEN_IDS]
        prompts = given if tokenizer is None else [tokenizer.encode(text) for text in options.prompt]
        requests = [make_request(options, prompt) for prompt in prompts]
        inference = make_inference(options, directory, name, requests)
    except (CheckpointError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for tokens in answer_all(inference, requests):
        text = ",".join(map(str, tokens)) if tokenizer is None else tokenizer.decode(tokens)
        sys.stdout.write(f"{text}\n")
    return 0


def load_tokenizer(path: Path | None, vocab_size: int) -> Any:
    """Return the sentencepiece tokenizer at a path.

    Raises ValueError if there is none, if it is not of `vocab_size`, and if sentencepiece is not installed.
    """
    if path is None:
        raise ValueError("--prompt needs --tokenizer PATH; or give --token-ids")
    try:
        sentencepiece = importlib.import_module("sentencepiece")
    except ImportError as error:
        raise ValueError(
            "--prompt needs sentencepiece: python -m pip install sentencepiece; or give --token-ids"
        ) from error
    mend = "give the one that came with the weights"
    try:
        tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{path}: not a sentencepiece model; {mend}") from error
    if tokenizer.vocab_size() != vocab_size:
        raise ValueError(f"{path}: {tokenizer.vocab_size()} pieces, but the model has {vocab_size} tokens; {mend}")
    return tokenizer


def make_request(options: argparse.Namespace, prompt: Sequence[int]) -> Request:
    """Return the request that the options ask for."""
    return Request(
        prompt=prompt,
        max_len=options.max_tokens,
        temperature=options.temperature,
        nucleus_p=options.top_p,
        rng_seed=options.seed,
    )


def find_checkpoint(options: argparse.Namespace) -> Path | None:
    """Return the checkpoint that the options name, or the one in its default place if they name no other model."""
    if options.checkpoint is None and options.config is None and DEFAULT_CHECKPOINT.is_dir():
        return DEFAULT_CHECKPOINT
    given: Path | None = options.checkpoint
    return given


def make_inference(
    options: argparse.Namespace, directory: Path | None, name: str, requests: Sequence[Request]
) -> InferenceRunner:
    """Return the loaded model with its slots; the requests are checked before it is loaded."""
    config = PRESETS[name]
    largest = max(len(request.prompt) for request in requests)
    check_tokens(config, np.stack([pad_to_size(np.array(request.prompt), largest) for request in requests]))
    pad_sizes = tuple(sorted({max(1, config.sequence_len // part) for part in (8, 4, 2)}))  # Grok-1: 1024, 2048, 4096
    for number, request in enumerate(requests):
        if len(request.prompt) > pad_sizes[-1]:
            say(f"request {number}: only the last {pad_sizes[-1]} of its {len(request.prompt)} tokens are used")
    runner = load_runner(options, directory, name, config)
    return InferenceRunner(runner, options.slots or min(len(requests), options.max_slots), pad_sizes)


def load_runner(
    options: argparse.Namespace, directory: Path | None, name: str, config: LanguageModelConfig
) -> ModelRunner:
    """Return the model of the checkpoint, or a synthetic one, on the mesh."""
    if options.mesh is not None:
        provide_devices(math.prod(options.mesh))
    mesh = None if options.mesh is None else make_mesh(options.mesh)
    if directory is not None:
        say(f"loading {name} from {directory}")
        return ModelRunner.load(directory, config, mesh, quantize=options.quantize)
    if options.config is None:
        place = DEFAULT_CHECKPOINT
        say(f"no {place} here: README.md, 'The weights of Grok-1', says how to get it; put it into {place.parent}/")
    say(f"sampling from a synthetic model of random weights, config {name}")
    with tempfile.TemporaryDirectory() as folder:
        synthesize(Path(folder), config)
        return ModelRunner.load(folder, config, mesh)


def provide_devices(num_devices: int) -> None:
    """Have JAX make so many virtual devices of the CPU, unless XLA_FLAGS says how many already.

    It must not have looked for its devices yet. Accelerators are not multiplied.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_force_host_platform_device_count" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={num_devices}"


def answer_all(inference: InferenceRunner, requests: Sequence[Request]) -> list[list[int]]:
    """Return the tokens of each answer, and show how they come."""
    started = time.perf_counter()
    inference.compile(requests)
    say(f"compiled in {time.perf_counter() - started:.1f} s")
    answers: list[list[int]] = [[] for _ in requests]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    started = time.perf_counter()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks = [progress.add_task(f"request {n}", total=request.max_len) for n, request in enumerate(requests)]
        for sampled in inference.run(requests):
            answer = answers[sampled.request]
            answer.append(sampled.token_id)
            total = len(answer) if sampled.last else requests[sampled.request].max_len
            progress.update(tasks[sampled.request], completed=len(answer), total=total)
    seconds = time.perf_counter() - started
    num_tokens = sum(map(len, answers))
    say(f"{num_tokens} tokens in {seconds:.2f} s: {num_tokens / seconds:.1f} tokens/s")
    return answers


def say(text: str) -> None:
    """Write a line to standard error."""
    sys.stderr.write(text + "\n")
