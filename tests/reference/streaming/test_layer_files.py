"""What is read of a layer, and what is given back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grok_conformance.reference import streaming
from grok_conformance.reference.streaming.layer_files import LayerFiles
from grok_conformance.reference.streaming.reading import ReadAhead
from tests.reference.streaming.tiny_streams import TOKENS, save


def test_experts_without_tokens_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, config, _ = save(tmp_path)
    requests: list[Any] = []
    request = ReadAhead.request

    def noted(reader: ReadAhead, regions: Any) -> Any:
        requests.append(regions)
        return request(reader, regions)

    monkeypatch.setattr(ReadAhead, "request", noted)
    with streaming.open_stream(folder, config) as stream:
        experts = {
            tuple(piece.regions): (layer, e, name)
            for layer in range(2)
            for e in range(5)
            for name, matrix in stream.expert(layer, e)._asdict().items()
            for piece in matrix
        }
        _, taps = streaming.apply_with_taps(stream, TOKENS[:1, :1], taps=["*.moe.expert_index"])
    read = [experts[tuple(regions)] for regions in requests if tuple(regions) in experts]
    chosen = {i: sorted(taps[f"layers.0{i}.moe.expert_index"].flat) for i in range(2)}
    needed = ("linear", "linear_v", "linear_1")  # in this order
    assert read == [(i, e, name) for i in range(2) for e in chosen[i] for name in needed]


def test_experts_that_were_read_in_vain_do_not_keep_memory(tmp_path: Path) -> None:
    folder, config, _ = save(tmp_path, num_layers=8)
    same = np.full((2, 6), 7, np.int32)  # 24 pairs for 5 experts: all are read ahead, few have tokens
    with streaming.open_stream(folder, config, num_workers=1) as stream:
        _, taps = streaming.apply_with_taps(stream, same, taps=["layers.00.moe.expert_index", "logits"])
    assert len(np.unique(taps["layers.00.moe.expert_index"])) == 2
    assert np.isfinite(taps["logits"].astype(np.float32)).all()


def test_what_is_given_up_before_it_is_read_keeps_no_memory(tmp_path: Path) -> None:
    folder, config, _ = save(tmp_path)
    with streaming.open_stream(folder, config, num_workers=1) as stream:
        for _ in range(stream.memory_bytes // stream.slot_bytes):
            weights = LayerFiles(stream, num_tokens=12, first_layer=0)  # enough tokens for all experts to be requested
            weights.request(1)
            weights.close()
        stream.reader.request(stream.layer(0)).result(timeout=30).give_back()
