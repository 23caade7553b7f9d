"""`mmcl eval`: one command a file."""

import typer

from mmcl.cli.evaluate.clusters import clusters
from mmcl.cli.evaluate.compare import compare
from mmcl.cli.evaluate.domains import domains
from mmcl.cli.evaluate.foils import foils
from mmcl.cli.evaluate.forgetting import forgetting
from mmcl.cli.evaluate.geometry import geometry
from mmcl.cli.evaluate.knn import knn
from mmcl.cli.evaluate.languages import languages
from mmcl.cli.evaluate.probe import probe
from mmcl.cli.evaluate.retrieval import retrieval
from mmcl.cli.evaluate.robustness import robustness
from mmcl.cli.evaluate.suite import suite
from mmcl.cli.evaluate.zeroshot import zeroshot

app = typer.Typer(help="Judge any model on any data.", no_args_is_help=True)
for _command in (
    retrieval,
    zeroshot,
    suite,
    probe,
    knn,
    clusters,
    geometry,
    domains,
    robustness,
    foils,
    languages,
    compare,
    forgetting,
):
    app.command(no_args_is_help=True)(_command)
