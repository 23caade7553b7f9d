"""`mmcl data`: one command a file."""

import typer

from mmcl.cli.data.mine import mine

app = typer.Typer(help="Look at data, mend them, and prepare them for training.", no_args_is_help=True)


@app.callback()
def _data() -> None:
    """Look at data, mend them, and prepare them for training."""


for _command in (mine,):
    app.command(no_args_is_help=True)(_command)
