"""The list of pairs that look wrong."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from mmcl.config import NoiseSection
from mmcl.noise.claims import Claims
from mmcl.noise.listing import suspicious_rows, write_suspicious_pairs
from mmcl.noise.trust import PairTrust


def test_the_likeliest_stand_first_and_captions_keep_their_commas(tmp_path: Path) -> None:
    trust = PairTrust(NoiseSection(method="mixture"), Claims.alone(5))
    trust.clean.copy_(torch.tensor([0.9, 0.2, 0.5, 0.1, 0.2]))
    trust.losses.copy_(torch.tensor([0.0, 1.0, torch.nan, 4.0, 3.0]))
    path = tmp_path / "pairs.csv"
    captions = ["", 'a "red", round\nthing', "", "größe", ""]
    listed = write_suspicious_pairs(path, trust, name="row{}".format, caption=captions.__getitem__)
    with path.open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert [record["row"] for record in found] == ["3", "4", "1"]
    assert listed == 3
    assert list(found[0].values()) == ["3", "row3", "größe", "0.1000", "4.0000", "1.0000"]
    assert found[2]["caption"] == captions[1]
    assert list(tmp_path.iterdir()) == [path]


def test_before_an_estimate_nothing_is_suspicious(tmp_path: Path) -> None:
    trust = PairTrust(NoiseSection(method="mixture"), Claims.alone(5))
    assert suspicious_rows(trust) == []
    assert write_suspicious_pairs(tmp_path / "pairs.csv", trust, name=str, caption=str) == 0
    assert (tmp_path / "pairs.csv").read_text().startswith("row,id,caption,clean_probability")
