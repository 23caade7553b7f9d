"""`mmcl data`: one command a file."""

import typer

from mmcl.cli.data.audit import audit
from mmcl.cli.data.augment import augment
from mmcl.cli.data.card import card
from mmcl.cli.data.convert import convert
from mmcl.cli.data.inspecting import inspect
from mmcl.cli.data.make import make
from mmcl.cli.data.mine import mine
from mmcl.cli.data.split import split

app = typer.Typer(help="Look at data, mend them, and prepare them for training.", no_args_is_help=True)


@app.callback()
def _data() -> None:
    """Look at data, mend them, and prepare them for training."""


for _command in (audit, augment, convert, inspect, card, make, mine, split):
    app.command(no_args_is_help=True)(_command)
