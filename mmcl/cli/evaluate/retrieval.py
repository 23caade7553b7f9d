"""`mmcl eval retrieval`."""

from __future__ import annotations

from mmcl.cli.console import check_json_file, make_console, watch_images
from mmcl.cli.evaluate.options import BatchSize, Columns, Data, Device, Images, Json, Model, open_both, report


def retrieval(
    model: Model,
    data: Data,
    batch_size: BatchSize = 64,
    json_file: Json = None,
    device: Device = None,
    columns: Columns = None,
    images: Images = None,
) -> None:
    """Recall@1/5/10 both ways, MRR, nDCG, mAP, median rank, 95 % intervals.

    Example: mmcl eval retrieval runs/emoji path/to/emoji:test --json retrieval.json
    """
    check_json_file(json_file)
    embedder, dataset = open_both(model, data, device=device, columns=columns, images=images)
    from mmcl.evaluation import FoilEvaluator, RetrievalEvaluator

    with watch_images(dataset, make_console()):
        metrics = RetrievalEvaluator(dataset, batch_size=batch_size)(embedder)
        if dataset.has("foils"):
            metrics |= FoilEvaluator(dataset, batch_size=batch_size)(embedder)
    report(metrics, title=f"{model} on {dataset.name}", json_file=json_file)
