from __future__ import annotations

import random

import pytest

from mmcl.data.writing.names import MAX_STEM, safe_stem, unique_stems


@pytest.mark.parametrize(
    ("identifier", "stem"),
    [
        ("0.png", "0"),
        ("train/cat/0001.JPEG", "train_cat_0001"),
        ("a.b.c", "a_b_c"),
        ("../../etc/passwd", "etc_passwd"),
        ("C:\\windows\\x.png", "C_windows_x"),
        (".hidden", "hidden"),
        ("-rf", "rf"),
        ("NUL", "_NUL"),
        ("lpt1.jpg", "_lpt1"),
        ("..", ""),
        ("", ""),
    ],
)
def test_stems(identifier, stem):
    got = safe_stem(identifier)
    assert got == stem or got.startswith(f"{stem}-")  # with a digest, where more than folders and dots was lost
    assert ("-" in got) == (":" in identifier)


def test_what_is_lost_in_other_scripts_is_told_apart():
    first, second = safe_stem("犬.png"), safe_stem("猫.png")
    assert first != second
    assert first.isascii()
    assert safe_stem("x" * 500) != safe_stem("x" * 501)
    assert len(safe_stem("x" * 500)) <= MAX_STEM


def test_any_ids_give_different_safe_names():
    rng = random.Random(0)
    letters = "aAbB01._-/\\ :é犬\n\0\x1f"
    ids = ["".join(rng.choices(letters, k=rng.randint(0, 6))) for _ in range(3000)]
    ids += ["y" * 200 + str(n % 7) for n in range(50)] + ["a", "a-2", "a", "A", "a-2"]
    stems = unique_stems(ids)
    assert len({stem.lower() for stem in stems}) == len(ids)
    for stem in stems:
        assert stem.replace("-", "").replace("_", "").isalnum()
        assert stem.isascii()
        assert len(stem) <= MAX_STEM
        assert not stem.startswith("-")
    assert unique_stems(ids) == stems


def test_first_comers_keep_their_names():
    assert unique_stems(["a", "A", "a-2", "a", None, "..", "4"]) == [
        "a",
        "A-2",
        "a-2-2",
        "a-3",
        "00000004",
        "00000005",
        "4",
    ]
