"""`mmcl eval`: one command a file."""

import typer

from mmcl.cli.evaluate.retrieval import retrieval
from mmcl.cli.evaluate.zeroshot import zeroshot

app = typer.Typer(help="Judge any model on any data.", no_args_is_help=True)
for _command in (retrieval, zeroshot):
    app.command(no_args_is_help=True)(_command)
