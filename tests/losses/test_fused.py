"""The fused kernels against tiles in float64, through Triton's interpreter, and when they are used."""

from __future__ import annotations

import importlib.util
import itertools
import logging
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmcl.errors import ConfigError
from mmcl.losses import info_nce, row_statistics
from mmcl.losses.candidates import Candidates, Window
from mmcl.losses.row_statistics import NUM_STATISTICS, NUM_WITH_GRADIENT, RowStatistics, Sweep

# The interpreter must be asked for before Triton is imported, which some other test may have done. So it has a process
# of its own, where this file is run again; on a GPU the same tests run in this one, with compiled kernels.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu")
HAS_TRITON = importlib.util.find_spec("triton") is not None
runs_kernels = pytest.mark.skipif(
    not INTERPRETED and DEVICE.type == "cpu", reason="run by test_the_kernels_in_the_interpreter"
)

DIM, SMALL = 20, 16
ROWS, MORE = 18, 23  # two blocks of them streamed, and in one test two held, which they do not divide
PRELUDE = """
import sys
import mmcl.losses
assert "triton" not in sys.modules, "importing mmcl.losses imports triton"
import pytest
sys.exit(pytest.main(["-rs", "-p", "no:cacheprovider", "-k", "not interpreter", sys.argv[1]]))
"""


@pytest.mark.skipif(INTERPRETED or not HAS_TRITON, reason="this is the interpreter's process, or there is no Triton")
def test_the_kernels_in_the_interpreter() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PRELUDE, __file__],
        env={**os.environ, "TRITON_INTERPRET": "1"}, cwd=os.getcwd(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def unit_rows(count: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, DIM, generator=draw, dtype=torch.float64), dim=1)


def numbers(count: int, high: int, seed: int) -> Tensor:
    return torch.randint(0, high, (count,), generator=torch.Generator().manual_seed(seed))


class Case(NamedTuple):
    """What ``row_statistics`` is given; the tensors on the CPU."""

    x: Tensor
    y: Tensor
    candidates: dict
    sweep: Sweep
    scale: float = 9.0
    bias: float | None = -1.5
    is_shared: bool = False


def pairs(rows: int = ROWS, sweep: Sweep | None = None, **candidates: object) -> Case:
    given = {"own": slice(0, rows), **candidates}
    return Case(unit_rows(rows, 0), unit_rows(rows, 1), given, sweep or Sweep(both=True))


def extras(**candidates: object) -> Case:
    return Case(unit_rows(ROWS, 0), unit_rows(MORE, 1), candidates, Sweep())


def views(**candidates: object) -> Case:
    x = unit_rows(ROWS, 0)
    partner = torch.arange(ROWS).view(2, -1).flip(0).flatten()
    given = {"own": partner, "itself": slice(0, ROWS), **candidates}
    return Case(x, x, given, Sweep(symmetric=True), is_shared=True)


def window(count: int, seed: int, low: float = -6.0, high: float = 2.0) -> Window:
    noise = torch.rand(count, generator=torch.Generator().manual_seed(seed))
    return Window(low=low + noise, high=high + noise)


GROUPS = numbers(ROWS, 6, 2)
MORE_GROUPS = numbers(MORE, 6, 3)
IDS = torch.stack([numbers(ROWS, 9, 4), numbers(ROWS, 9, 5) - 3], dim=1)
MASK = torch.rand(ROWS, ROWS, generator=torch.Generator().manual_seed(6)) < 0.2
MORE_MASK = (torch.arange(MORE * MORE) % 11 == 0).view(MORE, MORE)
ORDER = torch.randperm(ROWS, generator=torch.Generator().manual_seed(7))
ALL = Sweep(both=True, hardness=0.7, with_total=True)
CASES: dict[str, Callable[[], Case]] = {
    "pairs": pairs,
    "one row": lambda: pairs(1),
    "groups, hardness, totals": lambda: pairs(sweep=ALL, row_groups=GROUPS, column_groups=GROUPS),
    "groups left out, totals": lambda: pairs(
        sweep=Sweep(both=True, with_total=True), row_groups=GROUPS, column_groups=GROUPS, groups_are="nothing"
    ),
    "all positives": lambda: pairs(row_groups=GROUPS * 0, column_groups=GROUPS * 0),
    "windows, hardness": lambda: pairs(
        sweep=Sweep(both=True, hardness=0.7), row_window=window(ROWS, 8), column_window=window(ROWS, 9)
    ),
    "mask, ids, groups, totals": lambda: pairs(
        sweep=ALL, positives=MASK, row_ids=IDS, column_ids=IDS, row_groups=GROUPS, column_groups=GROUPS
    ),
    "one of several processes": lambda: Case(
        unit_rows(ROWS, 0), unit_rows(MORE, 1),
        {
            "own": slice(3, 3 + ROWS), "row_groups": MORE_GROUPS[3 : 3 + ROWS], "column_groups": MORE_GROUPS,
            "row_window": Window(high=window(ROWS, 8).high), "positives": MORE_MASK.T[3 : 3 + ROWS],
        },
        Sweep(with_total=True),
    ),
    "extra negatives, no bias": lambda: extras()._replace(bias=None),
    "extra negatives, groups": lambda: extras(row_groups=GROUPS, column_groups=MORE_GROUPS, groups_are="nothing"),
    "no negatives": lambda: extras(row_groups=GROUPS * 0, column_groups=MORE_GROUPS * 0, groups_are="nothing"),
    "own columns by number": lambda: pairs(own=ORDER),
    "two views": views,
    "two views, groups": lambda: views(row_groups=GROUPS, column_groups=GROUPS),
    "two views that are two tensors": lambda: views()._replace(is_shared=False, sweep=Sweep()),
}  # fmt: skip
HALF = ("groups, hardness, totals", "one of several processes")


class Outcome(NamedTuple):
    """Statistics, and gradients of x, y (None where x is y), scale and bias (None without one)."""

    statistics: list[Tensor]
    gradients: list[Tensor | None]


def placed(value: object, dtype: torch.dtype, device: torch.device) -> object:
    if isinstance(value, Window):
        return Window(*(None if end is None else end.to(device, dtype) for end in (value.low, value.high)))
    return value.to(device) if isinstance(value, Tensor) else value


def outcome(case: Case, dtype: torch.dtype, *, device: torch.device = DEVICE, factor: float = 1.0) -> Outcome:
    """All statistics, and the gradients of a sum of those that carry one, each with a weight of its own."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x = case.x.to(device, dtype).requires_grad_()
    y = x if case.is_shared else case.y.to(device, dtype).requires_grad_()
    scale = torch.tensor(case.scale, dtype=wide, device=device, requires_grad=True)
    bias = None if case.bias is None else torch.tensor(case.bias, dtype=wide, device=device, requires_grad=True)
    candidates = Candidates(device, **{name: placed(value, wide, device) for name, value in case.candidates.items()})
    rows, columns = row_statistics.row_statistics(x, y, scale, bias, candidates, case.sweep)
    statistics = [*rows, *(columns or [])]
    draw, loss = torch.Generator().manual_seed(10), 0.0
    for start in range(0, len(statistics), NUM_STATISTICS):
        for values in statistics[start : start + NUM_WITH_GRADIENT]:
            weights = torch.rand(values.shape, generator=draw).to(values)
            loss = loss + (torch.where(values.isfinite(), values, 0) * weights).sum()
    (loss * factor).backward()
    gradients = [x.grad, None if case.is_shared else y.grad, scale.grad, None if bias is None else bias.grad]
    return Outcome(
        [values.detach().cpu() for values in statistics], [None if g is None else g.cpu() for g in gradients]
    )


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything goes to the kernels, with small blocks, and the streamed rows in two shares."""
    from mmcl.losses import fused, fused_launch

    blocks = fused_launch.Blocks(held=2 * SMALL, streamed=SMALL, inner=SMALL, output=2 * SMALL, warps=4, stages=1)
    for name in ("statistics_blocks", "gradient_blocks"):
        monkeypatch.setattr(fused_launch, name, lambda *_, **__: [blocks])
    monkeypatch.setattr(fused, "shares", lambda *_: (2, SMALL))
    monkeypatch.setattr(row_statistics, "_collected_work", fused.collected_work)
    monkeypatch.setattr(fused, "_given_up", [])
    yield
    assert fused._given_up == [], "tiles took over"


@runs_kernels
@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, torch.float32) for name in CASES] + [(name, t) for name in HALF for t in (torch.bfloat16, torch.float16)],
    ids=lambda value: str(value).removeprefix("torch."),
)
def test_statistics_and_gradients_equal_float64(name: str, dtype: torch.dtype, request: pytest.FixtureRequest) -> None:
    case = CASES[name]()
    rounded = case._replace(x=case.x.to(dtype).double(), y=case.y.to(dtype).double())
    exact = outcome(rounded, torch.float64, device=torch.device("cpu"))
    request.getfixturevalue("kernels")
    found = outcome(case, dtype)
    for number, (got, want) in enumerate(zip(found.statistics, exact.statistics)):
        field = RowStatistics._fields[number % NUM_STATISTICS]
        assert got.dtype == torch.float32
        bound = 0 if field.startswith("num_") else 1e-6  # logits are not rounded, whatever the inputs are
        torch.testing.assert_close(got.double(), want, atol=20 * bound, rtol=bound, msg=lambda m, f=field: f"{f}: {m}")
    # Once for gradients on logits and once for the result, which the interpreter cuts off instead of rounding them.
    of_rows = {torch.float32: 1e-6, torch.bfloat16: 2.0**-6, torch.float16: 2.0**-9}[dtype]
    for number, (got, want) in enumerate(zip(found.gradients, exact.gradients)):
        assert (got is None) == (want is None)
        if got is not None:
            assert got.dtype == (dtype if number < 2 else torch.float32)
            size = max(want.abs().max().item(), 1e-3)
            error = (got.double() - want).abs().max().item() / size
            assert error < (of_rows if number < 2 else 1e-5), f"gradient {number} is off by {error:.1e} of {size:.1e}"


def test_the_cases_differ() -> None:
    # Were an option not looked at by either side, the test above would not see it.
    seen = {}
    for name, case in CASES.items():
        found = outcome(case(), torch.float64, device=torch.device("cpu")).statistics
        seen[name] = tuple(round(float(values.nan_to_num(neginf=-99.0).sum()), 6) for values in found)
    assert seen.pop("two views that are two tensors") == seen["two views"]
    assert len(set(seen.values())) == len(seen)


@runs_kernels
def test_a_scale_of_100_on_aligned_pairs(kernels: None) -> None:
    case = pairs()._replace(scale=100.0)
    case = case._replace(y=F.normalize(case.x + 0.01 * case.y, dim=1))
    found = outcome(case, torch.float32)
    assert all(values.isfinite().all() for values in found.statistics)
    assert all(g.isfinite().all() for g in found.gradients)
    assert found.statistics[1].min() > 90  # positives
    assert (found.statistics[0] < found.statistics[1]).all()  # negatives


@runs_kernels
def test_nan_stays_visible(kernels: None) -> None:
    case = pairs(sweep=Sweep(both=True, with_total=True))
    case.x[2, 1] = math.nan
    found = outcome(case, torch.float32).statistics
    rows, columns = found[:NUM_STATISTICS], found[NUM_STATISTICS:]
    for number in (0, 1, 3):
        assert rows[number].isnan().nonzero().flatten().tolist() == [2]
    assert columns[0].isnan().nonzero().flatten().tolist() == [row for row in range(ROWS) if row != 2]
    assert columns[1].isnan().nonzero().flatten().tolist() == [2]


@runs_kernels
def test_results_repeat_and_shares_do_not_matter(kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmcl.losses import fused, fused_launch

    case = CASES["groups left out, totals"]()
    one, again = outcome(case, torch.float32), outcome(case, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(one.statistics + one.gradients, again.statistics + again.gradients))
    monkeypatch.setattr(fused, "shares", lambda *_: (1, SMALL * 2))
    smaller = fused_launch.Blocks(held=SMALL, streamed=SMALL, inner=SMALL, output=SMALL, warps=4, stages=1)
    for name in ("statistics_blocks", "gradient_blocks"):
        monkeypatch.setattr(fused_launch, name, lambda *_, **__: [smaller])
    whole = outcome(case, torch.float32)
    for a, b in zip(one.statistics + one.gradients, whole.statistics + whole.gradients):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    monkeypatch.setattr(fused, "shares", lambda *_: (1, SMALL))  # a control: half of the rows are not looked at
    half = outcome(case, torch.float32)
    assert not torch.allclose(one.statistics[0], half.statistics[0], atol=1e-3)


@runs_kernels
def test_small_gradients_survive_float16(kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmcl.losses import fused

    plain, small = (outcome(pairs(), torch.float16, factor=factor).gradients[0].float() for factor in (1.0, 2.0**-16))
    size = plain.abs().max()
    assert (small * 2**16 - plain).abs().max() / size < 2e-3  # the result itself has lost digits by then
    monkeypatch.setattr(fused, "_unit", lambda values: values[0].new_ones(()))
    lost = outcome(pairs(), torch.float16, factor=2.0**-16).gradients[0].float()
    assert (lost * 2**16 - plain).abs().max() / size > 2e-3


@runs_kernels
def test_columns_without_gradient_cost_none(kernels: None) -> None:
    case = extras()
    x, y, scale = (v.to(DEVICE, torch.float32) for v in (case.x, case.y, torch.tensor(9.0)))
    x.requires_grad_()
    found, _ = row_statistics.row_statistics(x, y, scale, None, Candidates(DEVICE), Sweep())
    found.negatives.sum().backward()
    both = x.grad, x.grad.clone()
    x.grad = None
    y.requires_grad_()
    found, _ = row_statistics.row_statistics(x, y, scale, None, Candidates(DEVICE), Sweep())
    found.negatives.sum().backward()
    assert torch.equal(x.grad, both[1])
    assert y.grad.abs().max() > 1e-3


@runs_kernels
def test_the_hardest_negative_is_not_lost_by_its_last_bits(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    def loss() -> tuple[Tensor, Tensor]:
        image, text = (unit_rows(ROWS, seed).to(DEVICE, torch.float32).requires_grad_() for seed in (0, 1))
        extra = unit_rows(MORE, 3).to(DEVICE, torch.float32)
        options = {"label_smoothing": 0.1, "mining": "hardest"}
        found = info_nce(image, text, torch.tensor(20.0), negative_text=extra, **options)
        found.backward()
        return found.detach(), image.grad

    from mmcl.losses import fused

    by_tiles = loss()
    request.getfixturevalue("kernels")
    for one, other in zip(by_tiles, loss()):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=1e-5)
    monkeypatch.setattr(fused, "SLACK", -1e-5)  # a control: windows that lose it
    assert float(by_tiles[0] - loss()[0]) > 0.1


# -- when the kernels are used, and what happens where they cannot be ----------------------------------------------


def fails(*_: object) -> None:
    raise RuntimeError("PTXAS is not in a good mood")


@pytest.mark.parametrize("when", ["forward", "backward"])
def test_where_kernels_fail_tiles_take_over_and_a_warning_says_so(
    when: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    from mmcl.losses import fused, fused_launch

    case = CASES["windows, hardness"]()
    by_tiles = outcome(case, torch.float32, device=torch.device("cpu"))
    if when == "forward":
        monkeypatch.setattr(row_statistics, "_collected_work", fused.collected_work)
        monkeypatch.setattr(fused_launch, "run", fails)
    else:  # the statistics come from where they come from
        monkeypatch.setattr(fused.FusedWork, "_statistics", statistics_by_tiles)
        monkeypatch.setattr(row_statistics, "_collected_work", fused.collected_work)
        monkeypatch.setattr(fused_launch, "run", fails)
    monkeypatch.setattr(fused, "_given_up", [])
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            found = outcome(case, torch.float32, device=torch.device("cpu"))
            for got, want in zip(found.statistics + found.gradients, by_tiles.statistics + by_tiles.gradients):
                torch.testing.assert_close(got, want)
    assert [record.getMessage().count("not in a good mood") for record in caplog.records] == [1]
    assert len(fused._given_up) == 2


def statistics_by_tiles(work: object, *, of_rows: bool) -> object:
    """What ``FusedWork._statistics`` finds, found otherwise."""
    tiles = row_statistics._Work(*work._given, work.candidates, work.sweep)
    tiles.collect()
    work.own, work.own_scores = tiles.own, tiles.own
    return tiles.sides[0 if of_rows else 1]


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError("full"), ConfigError("MMCL_FUSED_PRECISION")])
def test_what_is_no_fault_of_the_kernels_is_raised(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmcl.losses import fused, fused_launch

    def raises(*_: object) -> None:
        raise error

    monkeypatch.setattr(row_statistics, "_collected_work", fused.collected_work)
    monkeypatch.setattr(fused_launch, "run", raises)
    with pytest.raises(type(error), match=str(error)):
        outcome(pairs(), torch.float32)
    assert fused._given_up == []


def test_an_unknown_precision_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmcl.losses import fused_launch

    assert fused_launch.float32_precision() == "ieee"
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert fused_launch.float32_precision() == "tf32x3"
    monkeypatch.setenv("MMCL_FUSED_PRECISION", "tf32")
    assert fused_launch.float32_precision() == "tf32"
    monkeypatch.setenv("MMCL_FUSED_PRECISION", "fp64")
    with pytest.raises(ConfigError, match="MMCL_FUSED_PRECISION is 'fp64'"):
        fused_launch.float32_precision()


@pytest.mark.parametrize(
    ("change", "supported"),
    [
        ({}, True),
        ({"x": torch.bfloat16, "y": torch.float32}, True),
        ({"x": torch.float64}, False),
        ({"y": torch.float64}, False),
        ({"tile_size": 64}, False),
        ({"ids": 4}, True),
        ({"ids": 5}, False),
    ],
)
def test_what_is_supported(change: dict, supported: bool) -> None:
    from mmcl.losses import fused

    x, y = (torch.ones(3, 2, dtype=change.get(name, torch.float32)) for name in "xy")
    ids = torch.ones(3, change["ids"]) if "ids" in change else None
    candidates = Candidates(torch.device("cpu"), slice(0, 3), row_ids=ids, column_ids=ids)
    assert fused.supports(x, y, candidates, Sweep(tile_size=change.get("tile_size"))) == supported


def test_windows_need_exact_products_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmcl.losses import fused

    x, device = torch.ones(3, 2), torch.device("cpu")
    windowed = Candidates(device, slice(0, 3), row_window=Window(low=torch.zeros(3)))
    assert fused.supports(x, x, windowed, Sweep())
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert not fused.supports(x, x, windowed, Sweep())
    assert fused.supports(x, x, Candidates(device, slice(0, 3)), Sweep())
    assert fused.supports(x.half(), x.half(), windowed, Sweep())


def test_only_a_gpu_is_given_to_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmcl.losses import fused, fused_kernels

    candidates, sweep = Candidates(torch.device("cpu"), slice(0, 3)), Sweep()
    on_gpu = SimpleNamespace(is_cuda=True, dtype=torch.bfloat16)
    monkeypatch.setattr(fused_kernels, "TRITON_IS_INSTALLED", True)
    assert fused.is_wanted(on_gpu, on_gpu, candidates, sweep)
    exact = SimpleNamespace(is_cuda=True, dtype=torch.float32)
    assert not fused.is_wanted(exact, exact, candidates, sweep)  # without tensor cores tiles are quicker
    with monkeypatch.context() as patch:
        patch.setenv("MMCL_FUSED_PRECISION", "ieee")
        assert fused.is_wanted(exact, exact, candidates, sweep)
    assert not fused.is_wanted(torch.ones(3, 2), torch.ones(3, 2), candidates, sweep)
    assert not fused.is_wanted(on_gpu, on_gpu, candidates, Sweep(tile_size=4))
    with monkeypatch.context() as patch:
        patch.setenv("MMCL_FUSED", "0")
        assert not fused.is_wanted(on_gpu, on_gpu, candidates, sweep)
    with monkeypatch.context() as patch:
        patch.setattr(fused, "_given_up", ["it failed"])
        assert not fused.is_wanted(on_gpu, on_gpu, candidates, sweep)
    monkeypatch.setattr(fused_kernels, "TRITON_IS_INSTALLED", False)
    assert not fused.is_wanted(on_gpu, on_gpu, candidates, sweep)


def test_the_kernels_can_be_imported_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmcl.losses import fused_kernels

    spec = importlib.util.spec_from_file_location("kernels_without_triton", fused_kernels.__file__)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    spec.loader.exec_module(module)
    assert not module.TRITON_IS_INSTALLED
    assert not hasattr(module, "tl")


@pytest.mark.parametrize(("programs", "streamed"), [(1, 1), (1, 33), (3, 5000), (256, 32768), (8, 4096), (2000, 100)])
@pytest.mark.parametrize("kind", ["statistics", "gradients"])
def test_shares_are_whole_blocks_and_cover_all_rows(
    kind: str, programs: int, streamed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmcl.losses import fused_launch

    processors = SimpleNamespace(multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: processors)
    count, size = fused_launch.shares(kind, programs, streamed, 32, torch.device("cuda"))
    assert size % 32 == 0
    assert (count - 1) * size < streamed <= count * size
    assert count == 1 or count * programs <= 132 * fused_launch.PROGRAMS[kind]
    assert fused_launch.shares(kind, programs, streamed, 32, torch.device("cpu")) == (1, streamed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dim", [1, 16, 100, 512, 768, 1024])
def test_blocks_are_powers_of_two_that_triton_can_multiply(dim: int, dtype: torch.dtype) -> None:
    from mmcl.losses import fused_launch

    for precision, plain in itertools.product(fused_launch.PRECISIONS, (True, False)):
        of_statistics = fused_launch.statistics_blocks(dtype, precision, plain=plain)
        of_gradients = fused_launch.gradient_blocks(dim, dtype, precision, plain=plain)
        for blocks in (*of_statistics, *of_gradients):
            sizes = [size for size in blocks[:4] if size]
            assert all(size >= 16 and size & (size - 1) == 0 for size in sizes)
        assert all(blocks.output == 0 for blocks in of_statistics)
        assert all(16 <= blocks.output < max(17, 2 * dim) for blocks in of_gradients)


@pytest.mark.skipif(not HAS_TRITON, reason="its errors are Triton's")
def test_smaller_blocks_are_taken_where_the_first_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmcl.losses import fused_kernels, fused_launch

    tried = []

    class Kernel:
        __name__ = "kernel"

        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            def start(*, block_held: int, **_: object) -> None:
                tried.append(block_held)
                if block_held > 32:
                    raise fused_kernels.triton.OutOfResources(300000, 232448, "shared memory")

            return start

    monkeypatch.setattr(fused_launch, "_too_large", set())
    choices = [fused_launch.Blocks(held, 16, 16, 0, 4, 1) for held in (128, 64, 32, 16)]
    constants = {"held_ptr": torch.ones(3), "dim": 8}

    def run(choices: list[fused_launch.Blocks]) -> dict:
        return fused_launch.run(
            Kernel(), choices, torch.device("cpu"), lambda blocks: ((1,), {"of": blocks.held}), constants
        )

    assert run(choices) == {"of": 32}
    assert run(choices) == {"of": 32}
    assert tried == [128, 64, 32, 32]
    with pytest.raises(fused_kernels.triton.OutOfResources):
        run([fused_launch.Blocks(256, 16, 16, 0, 4, 1)])


@pytest.mark.slow
@pytest.mark.skipif(not HAS_TRITON, reason="compiles them")
@pytest.mark.parametrize("name", ["statistics_kernel", "gradient_kernel"])
def test_the_kernels_compile_without_the_interpreter(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The interpreter lets much pass that the compiler refuses. No GPU is needed to compile for one.
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from mmcl.losses import fused_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(fused_kernels, name)
    types = dict.fromkeys(("own_ptr", "itself_ptr"), "*i32") | dict.fromkeys(("held_ptr", "streamed_ptr"), "*bf16")
    types |= dict.fromkeys(
        (f"{side}_{what}_ptr" for side in ("held", "streamed") for what in ("groups", "ids")), "*i64"
    )
    types |= {"positives_ptr": "*u8", "hardness": "fp32"}
    constants = {"dim": 40, "num_ids": 1, "num_fields": 9, "widen": False, "precision": "ieee"}
    signature, given = {}, {}
    for argument in kernel.arg_names:
        if argument.endswith("_ptr") or argument in types:
            signature[argument] = types.get(argument, "*fp32")
        elif argument.startswith("num_held") or argument in ("num_streamed", "split_size") or "stride" in argument:
            signature[argument] = "i32"
        else:
            signature[argument] = "constexpr"
            given[argument] = constants.get(argument, 32 if argument.startswith("block_") else True)
    compiled = compile(ASTSource(kernel, signature, given), target=GPUTarget("cuda", 90, 32))
    assert len(compiled.asm["cubin"]) > 1000
    assert "mma.sync" in compiled.asm["ptx"]  # tensor cores
