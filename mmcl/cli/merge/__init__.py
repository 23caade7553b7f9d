"""`mmcl merge`: one command a file."""

import typer

from mmcl.cli.merge.interpolate import interpolate
from mmcl.cli.merge.lora import lora
from mmcl.cli.merge.soup import soup

app = typer.Typer(help="Average models of one architecture, and merge adapters.", no_args_is_help=True)
for _command in (interpolate, soup, lora):
    app.command(no_args_is_help=True)(_command)
