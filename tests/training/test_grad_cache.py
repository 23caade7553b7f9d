"""Gradient caching is the plain step, exactly, for the memory of one micro-batch, whatever runs out on the way."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_runs import in_children, rank_envs
from torch import Tensor, nn
from torch.nn import functional as F

from mmcl.batch import EMBEDDED, Batch, Embeddings, HardNegatives, join_embeddings
from mmcl.errors import ConfigError, TrainingError
from mmcl.training import gather, grad_cache
from mmcl.training.grad_cache import MicroBatches
from mmcl.training.gradients import WholeBatch

CPU = torch.device("cpu")


def accelerator(*, scaler: Any = None, autocast: Callable[[], Any] = contextlib.nullcontext) -> Any:
    return SimpleNamespace(device=CPU, scaler=scaler, autocast=autocast)


class Toy(nn.Module):
    """All that an objective may have: two encoders, scale, bias, prototypes in the loss alone, an unused weight."""

    def __init__(self, *, dropout: float = 0.0, batch_norm: bool = False, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        norm = nn.BatchNorm1d(width) if batch_norm else nn.Identity()
        self.image = nn.Sequential(nn.Linear(6, width), norm, nn.GELU(), nn.Dropout(dropout), nn.Linear(width, 4))
        self.text = nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Dropout(dropout), nn.Linear(width, 4))
        self.log_scale = nn.Parameter(torch.tensor([1.0]))
        self.bias = nn.Parameter(torch.tensor([-2.0]))
        self.prototypes = nn.Parameter(torch.randn(3, 4))
        self.unused = nn.Parameter(torch.zeros(2))

    def encode(self, side: str, inputs: dict[str, Tensor]) -> Tensor:
        return F.normalize(getattr(self, side)(inputs["x"]).float(), dim=1)

    def forward(self, batch: Batch) -> Embeddings:
        made = Embeddings(
            image=self.encode("image", batch.image),
            text=self.encode("text", batch.text),
            group_ids=batch.group_ids,
            logit_scale=self.log_scale.exp(),
            logit_bias=self.bias,
            key_text=F.normalize(batch.text["x"][:, :4], dim=1),
        )
        if batch.negative_text is not None:
            made.negative_text = self.encode("text", batch.negative_text.inputs)
            made.negative_text_groups = batch.negative_text.group_ids
        if batch.negative_image is not None:
            made.negative_image = self.encode("image", batch.negative_image.inputs)
            made.negative_image_groups = batch.negative_image.group_ids
        return made

    def loss(self, embeddings: Embeddings) -> dict[str, Tensor]:
        """The mean over this process's rows of a sigmoid loss against all that everyone has."""
        everyone = embeddings.gathered or embeddings

        def logits(rows: Tensor, columns: Tensor) -> Tensor:
            return everyone.logit_scale * rows @ columns.T + everyone.logit_bias

        same = embeddings.group_ids[:, None] == everyone.group_ids[None, :]
        value = F.softplus(-torch.where(same, 1, -1) * logits(embeddings.image, everyone.text)).sum(1)
        value = value + F.softplus(logits(embeddings.text, everyone.key_text)).sum(1)
        value = value - F.log_softmax(embeddings.image @ self.prototypes.T, dim=1)[:, 0]
        for rows, columns, groups in (
            (embeddings.image, everyone.negative_text, everyone.negative_text_groups),
            (embeddings.text, everyone.negative_image, everyone.negative_image_groups),
        ):
            if columns is not None:
                other = embeddings.group_ids[:, None] != groups[None, :]
                value = value + (F.softplus(logits(rows, columns)) * other).sum(1)
        return {"loss": value.mean(), "rows": value.detach().sum()}


def toy_batch(rows: int) -> Batch:
    """Row i has i % 3 hard captions and, from row 5 on, a hard image: some parts have none."""
    draw = torch.Generator().manual_seed(1)
    captions = torch.tensor([row for row in range(rows) for _ in range(row % 3)], dtype=torch.int64)
    images = torch.arange(5, max(5, rows))

    def inputs(count: int) -> dict[str, Tensor]:
        return {"x": torch.randn(count, 6, generator=draw)}

    return Batch(
        image=inputs(rows),
        text=inputs(rows),
        group_ids=torch.arange(rows) // 2,
        rows=torch.arange(rows),
        negative_text=HardNegatives(inputs(len(captions)), captions, captions // 2) if len(captions) else None,
        negative_image=HardNegatives(inputs(len(images)), images, -torch.ones_like(images)) if len(images) else None,
    )


def gradients(toy: Toy) -> dict[str, Tensor | None]:
    found = {name: parameter.grad for name, parameter in toy.named_parameters()}
    for parameter in toy.parameters():
        parameter.grad = None
    return found


def cached(toy: Toy, batch: Batch, sizes: list[int], size: int | str, **options: Any) -> tuple[dict, dict]:
    """Terms and gradients of the method under test, from random state 3 + rank."""
    method = MicroBatches(toy, accelerator(**options), size=size, share=max(sizes))
    method.prepare(list(toy.parameters()))
    torch.manual_seed(3 + gather.rank())
    terms = method(batch, sizes)
    return terms, gradients(toy)


def plain(toy: Toy, batch: Batch, sizes: list[int], size: int, **options: Any) -> tuple[dict, dict]:
    """The oracle: one graph over all micro-batches, embedded one after another from the same random state."""
    context = options.get("autocast", contextlib.nullcontext)
    torch.manual_seed(3 + gather.rank())
    parts = []
    for piece in batch.split(size):
        with context():
            parts.append(toy(piece))
    whole = join_embeddings(parts)
    for name in EMBEDDED:
        rows = [getattr(part, name) for part in parts if getattr(part, name) is not None]
        setattr(whole, name, torch.cat(rows) if rows else None)
    whole = gather.gather_embeddings(whole, sizes)
    terms = toy.loss(whole)
    (terms["loss"] * gather.process_weight(sizes)).backward()
    gather.average_gradients(list(toy.parameters()))
    return terms, gradients(toy)


def largest_difference(one: dict[str, Tensor | None], other: dict[str, Tensor | None]) -> float:
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] is None] == [name for name in one if other[name] is None]
    return max(float((one[name] - other[name]).abs().max()) for name in one if one[name] is not None)


# -- batches in parts --------------------------------------------------------------------------------------------


def test_a_batch_splits_evenly_and_negatives_stay_with_their_row() -> None:
    batch = toy_batch(11)
    parts = batch.split(4)
    assert [len(part) for part in parts] == [3, 4, 4]
    assert torch.equal(torch.cat([part.image["x"] for part in parts]), batch.image["x"])
    assert torch.equal(torch.cat([part.group_ids for part in parts]), batch.group_ids)
    for field in ("negative_text", "negative_image"):
        whole, found = getattr(batch, field), []
        for part in parts:
            negatives = getattr(part, field)
            for position in range(len(negatives) if negatives is not None else 0):
                row = part.rows[negatives.owners[position]]
                found.append((int(row), int(negatives.group_ids[position]), negatives.inputs["x"][position].tolist()))
        expected = list(zip(whole.owners.tolist(), whole.group_ids.tolist(), whole.inputs["x"].tolist()))
        assert found == expected
    assert parts[0].negative_image is None  # rows 0 to 2 have none


def test_a_batch_that_fits_is_not_split() -> None:
    batch = toy_batch(3)
    assert batch.split(3) == [batch]
    empty = Batch({}, {}, torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
    assert empty.split(3) == [empty]
    assert [len(part) for part in batch.split(1)] == [1, 1, 1]


# -- equality ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 4, 11, 50])
def test_without_dropout_it_is_the_step_on_the_whole_batch(size: int) -> None:
    toy, batch = Toy(), toy_batch(11)
    terms, got = cached(toy, batch, [11], size)
    whole, wanted = plain(toy, batch, [11], 11)
    assert float(terms["loss"]) == pytest.approx(float(whole["loss"].detach()), abs=1e-6)
    assert terms["rows"] == pytest.approx(float(whole["rows"]), rel=1e-6)
    assert not any(value.requires_grad for value in terms.values())
    assert largest_difference(got, wanted) < 1e-6
    assert got["unused"] is None
    assert min(float(wanted[name].abs().max()) for name in wanted if name != "unused") > 1e-3
    method = WholeBatch(toy, accelerator())
    method.prepare(list(toy.parameters()))
    assert torch.equal(method(batch, [11])["loss"], whole["loss"].detach())
    assert largest_difference(gradients(toy), wanted) == 0


@pytest.mark.parametrize("size", [1, 3, 4, 11])
def test_with_dropout_it_is_the_step_on_the_same_masks(size: int) -> None:
    toy, batch = Toy(dropout=0.5), toy_batch(11)
    _, got = cached(toy, batch, [11], size)
    random = torch.get_rng_state()
    _, wanted = plain(toy, batch, [11], size)
    assert largest_difference(got, wanted) < 1e-6
    assert torch.equal(random, torch.get_rng_state())  # the next step draws the same, too


def test_without_the_random_state_masks_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grad_cache, "set_random_state", lambda state: None)
    toy, batch = Toy(dropout=0.5), toy_batch(11)
    assert largest_difference(cached(toy, batch, [11], 4)[1], plain(toy, batch, [11], 4)[1]) > 1e-2


def test_accumulation_of_micro_batches_is_another_gradient() -> None:
    toy, batch = Toy(), toy_batch(12)
    for part in batch.split(4):
        (toy.loss(toy(part))["loss"] / 3).backward()
    assert largest_difference(gradients(toy), plain(toy, batch, [12], 12)[1]) > 1e-2


def test_what_the_loss_draws_is_not_drawn_again() -> None:
    class Noisy(Toy):
        def loss(self, embeddings: Embeddings) -> dict[str, Tensor]:
            torch.rand(5)
            return super().loss(embeddings)

    toy = Noisy(dropout=0.5)
    cached(toy, toy_batch(11), [11], 4)
    random = torch.get_rng_state()
    plain(toy, toy_batch(11), [11], 4)
    assert torch.equal(random, torch.get_rng_state())


def test_frozen_parts_get_no_gradient() -> None:
    toy, batch = Toy(), toy_batch(11)
    for part in (toy.text, toy.image[0]):
        part.requires_grad_(False)
    toy.log_scale.requires_grad_(False)
    got, wanted = cached(toy, batch, [11], 4)[1], plain(toy, batch, [11], 11)[1]
    assert largest_difference(got, wanted) < 1e-6
    assert got["text.0.weight"] is None
    assert got["image.4.weight"].abs().max() > 1e-3
    for parameter in toy.parameters():
        parameter.requires_grad_(parameter is toy.prototypes)
    assert largest_difference(cached(toy, batch, [11], 4)[1], plain(toy, batch, [11], 11)[1]) < 1e-6


def test_bf16_autocast_and_a_loss_scaler() -> None:
    toy, batch = Toy(dropout=0.2), toy_batch(11)
    autocast = {"autocast": lambda: torch.autocast("cpu", torch.bfloat16)}
    got, wanted = cached(toy, batch, [11], 4, **autocast)[1], plain(toy, batch, [11], 4, **autocast)[1]
    assert min(float(wanted[name].abs().max()) for name in wanted if name != "unused") > 1e-3
    assert largest_difference(got, wanted) < 1e-6 * 2**10  # the sums of bf16 gradients are taken in another order
    full = cached(toy, batch, [11], 4)[1]
    assert largest_difference(got, full) > 1e-4  # a control: it was bf16
    scaled = cached(toy, batch, [11], 4, scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))[1]
    assert largest_difference({k: v if v is None else v / 1024 for k, v in scaled.items()}, full) < 1e-6


# -- several processes -------------------------------------------------------------------------------------------


def in_processes(count: int, work: Callable[[], None]) -> None:
    def started() -> None:
        torch.distributed.init_process_group("gloo")
        work()
        torch.distributed.destroy_process_group()

    for code, output in in_children(started, envs=rank_envs(count), timeout=60):
        assert code == 0, output


def own_rows(batch: Batch, sizes: list[int]) -> Batch:
    start = sum(sizes[: gather.rank()])
    return batch.of_rows(start, start + sizes[gather.rank()])


@pytest.mark.parametrize("sizes", [[6, 5], [9, 2], [1, 4, 6]])
def test_processes_with_any_numbers_of_micro_batches(tmp_path: Path, sizes: list[int]) -> None:
    """Uneven rows, uneven numbers of hard negatives, none at all on the first process of the last case."""

    def work() -> None:
        batch = own_rows(toy_batch(11), sizes)
        dry, wet = Toy(), Toy(dropout=0.5)
        results = {"cached": cached(dry, batch, sizes, 2)[1], "plain": plain(dry, batch, sizes, 99)[1]}
        results |= {"wet": cached(wet, batch, sizes, 2)[1], "wet_plain": plain(wet, batch, sizes, 2)[1]}
        torch.save(results, tmp_path / f"{gather.rank()}.pt")

    in_processes(len(sizes), work)
    whole = plain(Toy(), toy_batch(11), [11], 11)[1]
    for rank in range(len(sizes)):
        results = torch.load(tmp_path / f"{rank}.pt")
        for name in ("cached", "plain"):
            assert largest_difference(results[name], whole) < 2e-6, name
        assert largest_difference(results["wet"], results["wet_plain"]) < 2e-6
        assert largest_difference(results["wet"], whole) > 1e-2


def test_data_parallel_wrapping_of_hard_negatives_on_some_processes(tmp_path: Path) -> None:
    """The plain step with the same uneven negatives; without the parameter that no process uses."""

    def work() -> None:
        toy = Toy()
        del toy.unused
        toy.prototypes = nn.Parameter(toy.prototypes.detach(), requires_grad=False)
        method = WholeBatch(toy, accelerator())
        method.prepare(list(toy.parameters()))
        method(own_rows(toy_batch(11), [1, 10]), [1, 10])
        torch.save(gradients(toy), tmp_path / f"{gather.rank()}.pt")

    in_processes(2, work)
    whole = plain(Toy(), toy_batch(11), [11], 11)[1]
    for rank in range(2):
        got = torch.load(tmp_path / f"{rank}.pt")
        got["prototypes"], got["unused"] = whole["prototypes"], None
        assert largest_difference(got, whole) < 2e-6


def test_a_prototype_gradient_that_stays_on_its_process_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grad_cache, "average_gradients", lambda parameters: None)
    sizes = [6, 5]
    in_processes(2, lambda: torch.save(cached(Toy(), own_rows(toy_batch(11), sizes), sizes, 2)[1], tmp_path / "0.pt"))
    whole = plain(Toy(), toy_batch(11), [11], 11)[1]
    got = torch.load(tmp_path / "0.pt")
    assert float((got["prototypes"] - whole["prototypes"]).abs().max()) > 1e-3


def test_gradients_that_some_processes_lack_are_zero_there(tmp_path: Path) -> None:
    def work() -> None:
        first, second, third = (nn.Parameter(torch.zeros(3)) for _ in range(3))
        first.grad = torch.full((3,), 1.0 + gather.rank())
        if gather.rank() == 0:
            second.grad = torch.ones(3)
        gather.average_gradients([first, second, third])
        torch.save([first.grad, second.grad, third.grad], tmp_path / f"{gather.rank()}.pt")

    in_processes(2, work)
    for rank in range(2):
        first, second, third = torch.load(tmp_path / f"{rank}.pt")
        assert first.tolist() == [1.5] * 3
        assert second.tolist() == [0.5] * 3
        assert third is None


def test_processes_begin_with_the_main_ones_weights(tmp_path: Path) -> None:
    def work() -> None:
        torch.manual_seed(gather.rank())
        module = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        module.register_buffer("flag", torch.tensor([gather.rank() == 0]))
        gather.broadcast_state(module)
        torch.save(dict(module.state_dict()), tmp_path / f"{gather.rank()}.pt")

    in_processes(2, work)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert second["flag"].tolist() == [True]


def test_gradients_travel_in_messages_of_one_dtype_and_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "BUCKET_BYTES", 40)
    tensors = [torch.zeros(5), torch.zeros(5), torch.zeros(1), torch.zeros(50), torch.zeros(2, dtype=torch.float64)]
    assert [[len(tensor) for tensor in bucket] for bucket in gather._buckets(tensors)] == [[5, 5], [1], [50], [2]]
    assert list(gather._buckets([])) == []


# -- memory ------------------------------------------------------------------------------------------------------


class Held:
    """What autograd keeps at a time, beside weights."""

    now = peak = 0
    weights: frozenset[int] = frozenset()

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.size = 0 if tensor.untyped_storage().data_ptr() in self.weights else tensor.nbytes
        Held.now += self.size
        Held.peak = max(Held.peak, Held.now)

    def __del__(self) -> None:
        Held.now -= self.size


def peak_of(method: Any, toy: Toy, batch: Batch) -> int:
    method.prepare(list(toy.parameters()))
    Held.now = Held.peak = 0
    Held.weights = frozenset(parameter.untyped_storage().data_ptr() for parameter in toy.parameters())
    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
        method(batch, [len(batch)])
    assert Held.now < 100  # the scale of each micro-batch: an output that a hook holds, holds its history
    return Held.peak


def test_the_peak_is_one_micro_batchs_activations() -> None:
    class Deep(Toy):
        def __init__(self) -> None:
            super().__init__()
            blocks = [nn.Sequential(nn.Linear(64, 64), nn.GELU()) for _ in range(8)]
            self.image = nn.Sequential(nn.Linear(6, 64), *blocks, nn.Linear(64, 4))

        def loss(self, embeddings: Embeddings) -> dict[str, Tensor]:  # its own memory is not the matter here
            return {"loss": ((embeddings.image - embeddings.text) ** 2).mean()}

    toy, batch = Deep(), toy_batch(512)
    batch.negative_text = batch.negative_image = None
    whole = peak_of(WholeBatch(toy, accelerator()), toy, batch)
    assert whole > 512 * 64 * 4 * 16
    for size in (32, 128):
        part = peak_of(MicroBatches(toy, accelerator(), size=size, share=512), toy, batch)
        own_loss = 512 * 4 * 4  # the embeddings' difference, of all rows
        assert part - own_loss == pytest.approx((whole - own_loss) * size / 512, rel=0.01)


# -- running out -------------------------------------------------------------------------------------------------


class Limited(Toy):
    """Runs out of memory above some rows, or at some of its calls."""

    limit = 99
    fail_at: tuple[int, ...] = ()
    calls = losses = 0
    error: BaseException = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    def forward(self, batch: Batch) -> Embeddings:
        self.calls += 1
        made = super().forward(batch)
        if len(batch) > self.limit or self.calls in self.fail_at:
            raise self.error
        return made

    def loss(self, embeddings: Embeddings) -> dict[str, Tensor]:
        self.losses += 1
        return super().loss(embeddings)


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(),
]


@pytest.fixture
def ample(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own memory plays no part."""
    monkeypatch.setattr(grad_cache, "rows_that_fit", lambda *args, **options: 10**9)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.usefixtures("ample")
def test_auto_halves_to_what_fits(caplog: pytest.LogCaptureFixture, error: BaseException) -> None:
    caplog.set_level(logging.INFO)
    toy, batch = Limited(dropout=0.5, batch_norm=False), toy_batch(16)
    toy.limit, toy.error = 5, error
    method = MicroBatches(toy, accelerator(), size="auto", share=16)
    method.prepare(list(toy.parameters()))
    torch.manual_seed(3)
    terms = method(batch, [16])
    assert method.size == 4
    assert "auto: 16 of a process's 16 pairs" in caplog.text
    assert "16 pairs at once: the step is made again with 8" in caplog.text
    assert "8 pairs at once: the step is made again with 4" in caplog.text
    wanted_terms, wanted = cached(Toy(dropout=0.5), batch, [16], 4)
    assert largest_difference(gradients(toy), wanted) == 0
    assert torch.equal(terms["loss"], wanted_terms["loss"])


@pytest.mark.usefixtures("ample")
def test_the_real_allocators_error_is_known() -> None:
    class Greedy(Toy):
        def forward(self, batch: Batch) -> Embeddings:
            if len(batch) > 5:
                torch.empty(2**60, dtype=torch.uint8)
            return super().forward(batch)

    toy = Greedy()
    method = MicroBatches(toy, accelerator(), size="auto", share=16)
    method.prepare(list(toy.parameters()))
    method(toy_batch(16), [16])
    assert method.size == 4


@pytest.mark.parametrize("call", range(1, 7))  # two micro-batches: two calls in the first pass, one in the second
@pytest.mark.usefixtures("ample")
def test_a_step_that_runs_out_anywhere_is_made_again_exactly(call: int) -> None:
    batch = toy_batch(16)
    toy = Limited(dropout=0.5, batch_norm=True)
    method = MicroBatches(toy, accelerator(), size="auto", share=16)
    method.prepare(list(toy.parameters()))
    method.size = 8
    toy.fail_at = (call,)
    torch.manual_seed(3)
    for _ in range(2):  # the second step runs out in calls 4 to 6
        before = gradients(toy)
        terms = method(batch, [16])
    got, random = gradients(toy), torch.get_rng_state()
    assert method.size == 4
    other = Toy(dropout=0.5, batch_norm=True)
    sizes = (4, 4) if call <= 3 else (8, 4)
    torch.manual_seed(3)
    for number, size in enumerate(sizes):
        gradients(other)
        second = MicroBatches(other, accelerator(), size=size, share=16)
        second.prepare(list(other.parameters()))
        wanted_terms = second(batch, [16])
        if number == 0:
            first = gradients(other)
    assert largest_difference(first, before if before["bias"] is not None else first) == 0
    assert torch.equal(terms["loss"], wanted_terms["loss"])
    assert largest_difference(got, gradients(other)) == 0
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(toy.buffers(), other.buffers()))


@pytest.mark.usefixtures("ample")
def test_running_out_in_the_loss_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = Limited()

    def loss(embeddings: Embeddings) -> dict[str, Tensor]:
        toy.losses += 1
        if toy.losses == 1:
            (toy.prototypes.sum() + embeddings.image.sum()).backward()  # part of a backward pass
            raise toy.error
        return Toy.loss(toy, embeddings)

    monkeypatch.setattr(toy, "loss", loss)
    got = cached(toy, toy_batch(16), [16], "auto")[1]
    assert largest_difference(got, cached(Toy(), toy_batch(16), [16], 8)[1]) == 0


@pytest.mark.usefixtures("ample")
def test_what_is_said_where_nothing_smaller_is_left() -> None:
    toy, batch = Limited(), toy_batch(16)
    toy.limit = 5
    with pytest.raises(TrainingError, match=r"train.micro_batch_size=8; set a smaller one, or auto. CUDA out of .*B.$"):
        cached(toy, batch, [16], 8)
    method = WholeBatch(toy, accelerator())
    method.prepare(list(toy.parameters()))
    with pytest.raises(TrainingError, match=r"with 16 pairs at once on this process; set train.micro_batch_size=auto"):
        method(batch, [16])
    toy.limit = 0
    with pytest.raises(TrainingError, match=r"with 1 pair\(s\) at once; use train.gradient_checkpointing=true"):
        cached(toy, batch, [16], "auto")


def test_other_errors_are_not_taken_for_it() -> None:
    toy = Limited()
    toy.limit, toy.error = 5, RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    for size in ("auto", 8):
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            cached(toy, toy_batch(16), [16], size)


# On the second process: from the start; in the second pass alone (two micro-batches are two calls, the third is again).
@pytest.mark.parametrize("trouble", [{"limit": 5}, {"fail_at": (1, 4)}], ids=["first", "second"])
@pytest.mark.usefixtures("ample")
def test_one_process_that_runs_out_halves_all(tmp_path: Path, trouble: dict[str, Any]) -> None:
    sizes = [16, 14]

    def work() -> None:
        toy, batch = Limited(), own_rows(toy_batch(30), sizes)
        if gather.rank() == 1:
            vars(toy).update(trouble)
        got = cached(toy, batch, sizes, "auto")[1]
        assert toy.calls > 3
        torch.save(got, tmp_path / f"{gather.rank()}.pt")

    in_processes(2, work)
    whole = plain(Toy(), toy_batch(30), [30], 30)[1]
    apart = [largest_difference(torch.load(tmp_path / f"{rank}.pt"), whole) for rank in range(2)]
    assert max(apart) < 1e-5 * float(whole["bias"]), apart


@pytest.mark.usefixtures("ample")
def test_one_process_that_runs_out_stops_all(tmp_path: Path) -> None:
    sizes = [16, 14]

    def work() -> None:
        toy = Limited()
        toy.limit = 5 if gather.rank() == 1 else 99
        with pytest.raises(TrainingError, match="memory ran out with train.micro_batch_size=8"):
            cached(toy, own_rows(toy_batch(30), sizes), sizes, 8)

    in_processes(2, work)


# -- what a CPU holds ----------------------------------------------------------------------------------------------


def test_auto_on_a_cpu_keeps_within_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmcl.training import memory

    toy, batch = Toy(dropout=0.5, batch_norm=True, width=4096), toy_batch(64)
    random, norms = torch.get_rng_state(), [buffer.clone() for buffer in toy.buffers()]
    each = memory.bytes_a_row(toy, batch)
    # Four activations of the width for an image, a caption and their hard negatives: 2 to 3 items of each kind a row.
    assert 4 * 4096 * 4 < each < 40 * 4096 * 4
    torch.set_rng_state(random)
    toy.load_state_dict({**toy.state_dict(), **dict(zip([name for name, _ in toy.named_buffers()], norms))})
    monkeypatch.setattr(memory, "free_bytes", lambda: int((each * 20 * 2 + 3 * weights) / 0.8) + 1)
    monkeypatch.setattr(memory, "bytes_a_row", lambda *_: each)
    wide = MicroBatches(toy, accelerator(), size="auto", share=64)
    weights = sum(parameter.nbytes for parameter in toy.parameters())
    wide.prepare(list(toy.parameters()))
    wide(batch, [64])
    assert wide.size == 16  # of 64, 32, 16 the first that is not above 20
    monkeypatch.setattr(memory, "free_bytes", lambda: 0)
    method = MicroBatches(Toy(), accelerator(), size="auto", share=64)
    method.prepare([])
    method(batch, [64])
    assert method.size == 1


def test_measuring_changes_nothing() -> None:
    batch = toy_batch(32)
    results = []
    for size in ("auto", 32):
        toy = Toy(dropout=0.5, batch_norm=True)
        got = cached(toy, batch, [32], size)[1]
        results.append((got, torch.get_rng_state(), [buffer.clone() for buffer in toy.buffers()]))
    (one, random, norms), (other, other_random, other_norms) = results
    assert largest_difference(one, other) == 0
    assert torch.equal(random, other_random)
    assert all(torch.equal(a, b) for a, b in zip(norms, other_norms))


def test_free_memory_is_a_plausible_number(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmcl.training.memory import free_bytes

    free = free_bytes()
    assert 0 < free < 2**50
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_bytes() < free / 2


# -- batch norm ----------------------------------------------------------------------------------------------------


def test_running_statistics_move_once_a_step(caplog: pytest.LogCaptureFixture) -> None:
    batch = toy_batch(64)
    batch.negative_image = None
    whole, parts = Toy(batch_norm=True), Toy(batch_norm=True)
    plain(whole, batch, [64], 64)
    cached(parts, batch, [64], 8)
    one, other = whole.image[1], parts.image[1]
    assert torch.equal(other.weight, one.weight)
    # Means: to first order of the momentum those of all rows; a pass counted twice, or eight whole steps, is far off.
    moved = one.running_mean.abs().mean()
    assert float((other.running_mean - one.running_mean).abs().mean() / moved) < 0.1
    assert math.isclose(other.momentum, one.momentum)
    assert other.track_running_stats
    assert caplog.text.count("batch norm sees the 8 rows of a micro-batch") == 1
    single = Toy(batch_norm=True)
    cached(single, batch, [64], 64)
    assert torch.equal(single.image[1].running_mean, one.running_mean)


def test_a_batch_norm_wants_rows() -> None:
    with pytest.raises(ConfigError, match="train.micro_batch_size is 2, and the model has a batch norm"):
        cached(Toy(batch_norm=True), toy_batch(16), [16], 2)
    cached(Toy(batch_norm=True).eval(), toy_batch(16), [16], 2)
    toy = Limited(batch_norm=True)
    toy.limit = 3
    with pytest.raises(TrainingError, match=r"with 4 pair\(s\) at once"):
        cached(toy, toy_batch(16), [16], "auto")
