from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import sentencepiece

from grok_conformance.reference import __main__ as command
from grok_conformance.reference import checkpoint, demo, dequantize
from grok_conformance.reference.checkpoint.synthesis import synthesize
from grok_conformance.reference.quantization import is_quantized
from grok_conformance.reference.runner import InferenceRunner, ModelRunner, Request
from tests.reference.slot_models import CONFIG

TINY = replace(CONFIG, eos_token=CONFIG.vocab_size, model=replace(CONFIG.model, num_layers=1))
"""One layer, and an end-of-sequence token that is never drawn."""


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "PRESETS", {"small": TINY, "grok-1": TINY})


@pytest.mark.usefixtures("tiny")
def test_a_checkpoint_answers_as_its_parameters_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    synthesize(tmp_path, TINY, seed=3)
    prompts = [[7, 31, 12], [5, 6, 7, 8]]
    requests = [Request(prompt=p, max_len=4, temperature=1.5, nucleus_p=0.9, rng_seed=8) for p in prompts]
    inference = InferenceRunner(ModelRunner(TINY, checkpoint.load(tmp_path, TINY)), num_slots=1, pad_sizes=(2, 5, 10))
    expected: list[list[str]] = [[], []]
    for token in inference.run(requests):
        expected[token.request].append(str(token.token_id))

    options = f"--checkpoint {tmp_path} --max-tokens 4 --temperature 1.5 --top-p 0.9 --seed 8 --slots 1"
    assert command.main([*options.split(), "--token-ids", "7,31,12", "--token-ids", "5,6,7,8"]) == 0
    assert capsys.readouterr().out.splitlines() == [",".join(answer) for answer in expected]


@pytest.mark.usefixtures("tiny")
def test_the_checkpoint_in_its_default_place_is_loaded_and_a_named_configuration_is_a_synthetic_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    synthesize(tmp_path / "checkpoint", TINY, seed=3)
    options = ["--max-tokens", "2", "--token-ids", "7,31"]
    monkeypatch.chdir(tmp_path)
    assert command.main(options) == 0
    default = capsys.readouterr()
    assert default.err.splitlines()[0] == "loading grok-1 from checkpoint/ckpt-0"
    assert command.main([*options, "--checkpoint", str(tmp_path / "checkpoint")]) == 0
    assert capsys.readouterr().out == default.out
    assert command.main([*options, "--config", "small"]) == 0
    assert capsys.readouterr().err.startswith("sampling from a synthetic model of random weights, config small\n")


@pytest.mark.usefixtures("tiny")
def test_a_float_checkpoint_is_quantised_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = jax.tree.map(
        lambda leaf: np.asarray(dequantize(leaf), np.float32) if is_quantized(leaf) else leaf,
        checkpoint.load(synthesize(tmp_path / "int8", TINY), TINY),
        is_leaf=is_quantized,
    )
    checkpoint.save(tmp_path / "float", TINY, params)
    found: list[Any] = []

    def answer_all(inference: InferenceRunner, _: Any) -> list[list[int]]:
        found.append(inference.runner.params)
        return []

    monkeypatch.setattr(demo, "answer_all", answer_all)
    for options in ("--quantize 4", "--quantize", ""):
        assert command.main(f"--checkpoint {tmp_path / 'float'} {options}".split()) == 0
    layer = "transformer/decoder_layer_0/moe/linear_1"
    assert [is_quantized(each[layer]["w"]) and each[layer]["w"].scales.shape[1] for each in found] == [4, 8, False]


@pytest.fixture
def requested(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """The requests that reach the model, whose answer is always 5, 6."""
    found: list[Request] = []

    def answer_all(_: Any, requests: list[Request]) -> list[list[int]]:
        found.extend(requests)
        return [[5, 6] for _ in requests]

    monkeypatch.setattr(demo, "load_runner", lambda *_: SimpleNamespace(config=TINY))
    monkeypatch.setattr(demo, "answer_all", answer_all)
    return found


@pytest.mark.usefixtures("tiny")
def test_prompts_and_answers_pass_through_the_tokenizer(
    requested: list[Request], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def tokenizer(model_file: str) -> Any:
        assert model_file == "letters.model"
        return SimpleNamespace(
            vocab_size=lambda: TINY.vocab_size,
            encode=lambda text: [ord(letter) - ord("a") for letter in text],
            decode=lambda ids: "".join(chr(i + ord("a")) for i in ids),
        )

    monkeypatch.setitem(sys.modules, "sentencepiece", SimpleNamespace(SentencePieceProcessor=tokenizer))
    assert command.main(["--prompt", "cab", "--prompt", "d", "--tokenizer", "letters.model"]) == 0
    assert [request.prompt for request in requested] == [[2, 0, 1], [3]]
    assert capsys.readouterr().out == "fg\nfg\n"


def test_a_sentencepiece_model_gives_back_the_text_that_it_encoded(tmp_path: Path) -> None:
    sentences = ["the router chooses two experts", "the experts answer", "two answers are one token"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_prefix=str(tmp_path / "tiny"),
        vocab_size=32,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    size = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tiny.model")).vocab_size()
    tokenizer = demo.load_tokenizer(tmp_path / "tiny.model", size)
    ids = tokenizer.encode(sentences[0])
    assert set(ids) <= set(range(size))
    assert tokenizer.decode(ids) == sentences[0]


@pytest.mark.usefixtures("tiny")
def test_the_options_reach_every_request_and_a_cut_prompt_is_announced(
    requested: list[Request], capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = list(range(1, 13))
    token_ids = ",".join(map(str, prompt))
    options = f"--max-tokens 7 --temperature 0.5 --top-p 0.25 --seed 9 --token-ids {token_ids}"
    assert command.main(options.split()) == 0
    assert requested == [Request(prompt=prompt, max_len=7, temperature=0.5, nucleus_p=0.25, rng_seed=9)]
    captured = capsys.readouterr()
    assert captured.out == "5,6\n"
    assert "request 0: only the last 10 of its 12 tokens are used" in captured.err
