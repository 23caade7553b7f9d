"""Retrieval both ways from given embeddings, beside its peers: time, memory, equal recalls, the whole evaluator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import evaluation_peers as peers
from evaluation_peers import CLIP_BENCHMARK, SENTENCE_TRANSFORMERS, TOP_K, Peer
from measuring import Row, Settings, bounded, compared, say, times_and_results, unmeasured
from peak_memory import PeakError, peak_memory

COMPARED = (CLIP_BENCHMARK, TOP_K)
CLAIMED = 5000  # images at which mmcl promises its ratios
MOST_IMAGES = {CLIP_BENCHMARK.name: 5000}  # at 20,000 its matrices take 16 times as much: 70 GiB
SIX_DECIMALS = 5e-7
METRICS = {"R": "recall", "nDCG": "ndcg", "mAP": "map"}


def sizes_of(images: int) -> str:
    """5000 -> "5,000 x 25,000"."""
    return f"{images:,} x {images * peers.CAPTIONS:,}"


def _fits(peer: Peer, images: int) -> bool:
    return images <= MOST_IMAGES.get(peer.name, images)


def _present(settings: Settings, some: tuple[Peer, ...], images: int) -> tuple[list[Peer], list[Peer]]:
    """Peers to measure at a size, and those that are not installed."""
    wanted = [peer for peer in some if settings.wants(peer.package) and _fits(peer, images)]
    return [peer for peer in wanted if not peer.missing()], [peer for peer in wanted if peer.missing()]


def retrieval(settings: Settings) -> Iterator[Row]:
    """R@1, 5 and 10 both ways from embeddings: time, and the largest difference."""
    for images in settings.sizes:
        what = f"R@1/5/10 both ways, {sizes_of(images)}"
        say(f"{what} ...")
        gallery = peers.planted(images, settings.dim)
        present, absent = _present(settings, COMPARED, images)
        everyone = {"mmcl": peers.mmcl_recalls} | {peer.name: peer.call for peer in present}
        for call in everyone.values():
            call(peers.planted(20, settings.dim))  # a first call that does not count
        calls = {name: partial(call, gallery) for name, call in everyone.items()}
        rounds = settings.repeats or (1 if images > CLAIMED else 2)
        seconds, found = times_and_results(calls, rounds=rounds)
        best = {name: min(each) for name, each in seconds.items()}
        for peer in present:
            bound = 1 / 11 if peer is CLIP_BENCHMARK and images == CLAIMED else None
            yield compared(
                "retrieval", f"{what}: time", best["mmcl"], peer.name, best[peer.name], unit="s", at_most=bound,
                images=images, ours_all=seconds["mmcl"], theirs_all=seconds[peer.name],
            )  # fmt: skip
        for peer in present:
            gap = max(abs(found["mmcl"][name] - value) for name, value in found[peer.name].items())
            yield bounded(
                "retrieval", f"{what}: difference of the recalls", gap, peer.name, unit="error",
                at_most=SIX_DECIMALS, images=images, our_recalls=found["mmcl"], their_recalls=found[peer.name],
            )  # fmt: skip
        for peer in absent:
            yield unmeasured("retrieval", f"{what}: time", peer.name, peer.missing(), ours=best["mmcl"], unit="s")


def one_evaluation(settings: Settings, *, call: str, images: int) -> Callable[[], object]:
    """What a fresh process measures: the recalls of given embeddings, after those of a few.

    Args:
        settings: of this run.
        call: the function of ``evaluation_peers``.
        images: how many.
    """
    recalls = getattr(peers, call)
    recalls(peers.planted(20, settings.dim))
    gallery = peers.planted(images, settings.dim)
    return lambda: recalls(gallery)


def _peak(settings: Settings, call: Callable, images: int) -> int:
    return peak_memory("evaluation_retrieval", "one_evaluation", settings, call=call.__name__, images=images)


def memory(settings: Settings) -> Iterator[Row]:
    """Peak memory beyond the embeddings; at the largest size, with them, against one gigabyte."""
    for images in settings.sizes:
        what = f"R@1/5/10 both ways, {sizes_of(images)}: peak memory"
        say(f"{what} ...")
        mine = _peak(settings, peers.mmcl_recalls, images)
        present, absent = _present(settings, COMPARED, images)
        for peer in present:
            try:
                theirs = _peak(settings, peer.call, images)
            except PeakError as error:
                yield unmeasured("memory", what, peer.name, f"failed ({error})", ours=mine, unit="bytes")
                continue
            bound = 1 / 40 if peer is CLIP_BENCHMARK and images == CLAIMED else None
            yield compared("memory", what, mine, peer.name, theirs, unit="bytes", at_most=bound, images=images)
        for peer in absent:
            yield unmeasured("memory", what, peer.name, peer.missing(), ours=mine, unit="bytes")
        if images > CLAIMED or settings.quick:
            whole = mine + 4 * settings.dim * images * (1 + peers.CAPTIONS)
            yield bounded("memory", f"{what}, embeddings included", whole, "", unit="bytes", at_most=1e9)


def evaluator(settings: Settings) -> Iterator[Row]:
    """The whole `RetrievalEvaluator` on given embeddings: beside one of another package, and with intervals."""
    from mmcl.evaluation import RetrievalEvaluator

    images = settings.sizes[0]
    what = f"RetrievalEvaluator on given embeddings, {sizes_of(images)}"
    say(f"{what} ...")
    gallery = peers.planted(images, settings.dim)
    dataset, embedder = peers.dataset_of(gallery), peers.GivenEmbedder(gallery)

    def judge(**options: bool) -> Callable[[], object]:
        return partial(RetrievalEvaluator(dataset, **options), embedder)

    both, intervals, all_ways = "mmcl, both ways", "mmcl with intervals", "mmcl with i2i and t2t"
    calls = {
        both: judge(confidence=False, same_modality=False),
        intervals: judge(confidence=True, same_modality=False),
        all_ways: judge(confidence=False, same_modality=True),
    }
    few = peers.planted(20, settings.dim)  # first calls do not count
    RetrievalEvaluator(peers.dataset_of(few))(peers.GivenEmbedder(few))
    peer = SENTENCE_TRANSFORMERS
    if settings.wants(peer.package) and not peer.missing():
        peer.call(few)
        calls[peer.name] = partial(peer.call, gallery)
    seconds, found = times_and_results(calls, rounds=settings.repeats or 2)
    best = {name: min(each) for name, each in seconds.items()}
    for added, name in (("with 95 % intervals", intervals), ("with image-image and text-text", all_ways)):
        yield compared(
            "evaluator", f"{what}: time {added}", best[name], "mmcl without", best[both], unit="s", all=seconds
        )
    if peer.name in best:
        yield compared("evaluator", f"{what}: time", best[both], peer.name, best[peer.name], unit="s", all=seconds)
        gap = max(abs(found[both][_named(name)] - value) for name, value in found[peer.name].items())
        yield bounded(
            "evaluator", f"{what}: difference of R@k, nDCG@10, mAP@10", gap, peer.name, unit="error",
            at_most=SIX_DECIMALS, their_metrics=found[peer.name],
        )  # fmt: skip
    elif settings.wants(peer.package):
        yield unmeasured("evaluator", f"{what}: time", peer.name, peer.missing(), ours=best[both], unit="s")


def _named(name: str) -> str:
    """A peer's "i2t R@5" as mmcl's evaluator has it: "retrieval/i2t_recall@5"."""
    way, metric = name.split()
    short, depth = metric.split("@")
    return f"retrieval/{way}_{METRICS[short]}@{depth}"
