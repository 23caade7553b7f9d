"""`mmcl eval retrieval --csls`: corrected figures under their own names, with what must be said of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def test_csls_is_reported_apart(invoke, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    rows[:, 0] += 2  # a common direction makes hubs
    np.savez(tmp_path / "v.npz", image=rows, text=rows + np.random.default_rng(1).normal(size=rows.shape) * 0.7)
    reference, files = f"vectors:{tmp_path / 'v.npz'}", [tmp_path / f"{name}.json" for name in ("plain", "csls")]
    plain = invoke("eval", "retrieval", reference, reference, "--json", str(files[0]))
    found = invoke("eval", "retrieval", reference, reference, "--csls", "--csls-k", "5", "--json", str(files[1]))
    assert (plain.code, found.code) == (0, 0), plain.err + found.err
    alone, both = (json.loads(file.read_text()) for file in files)
    assert {name: both[name] for name in alone} == alone
    assert not any("csls" in name or "hubness" in name for name in alone)
    for way in ("i2t", "t2i"):
        gain = both[f"retrieval/csls_{way}_recall@1"] - both[f"retrieval/{way}_recall@1"]
        assert abs(both[f"retrieval/csls_{way}_recall@1_gain"] - gain) < 1e-12
    assert "CSLS looks at the whole gallery" in " ".join(found.out.split())
    assert "CSLS" not in plain.out
    assert invoke("eval", "retrieval", reference, reference, "--csls", "--csls-k", "0").code == 2
