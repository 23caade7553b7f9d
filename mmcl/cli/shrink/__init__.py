"""`mmcl shrink`: one command a file."""

import typer

from mmcl.cli.shrink.dimensions import dimensions
from mmcl.cli.shrink.embeddings import embeddings

app = typer.Typer(help="Smaller models and embeddings, and what they cost.", no_args_is_help=True)
for _command in (dimensions, embeddings):
    app.command(no_args_is_help=True)(_command)
