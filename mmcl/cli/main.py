"""`mmcl`: the command line. Heavy libraries are imported inside the commands, so that --help is quick."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from mmcl.cli.card import card
from mmcl.cli.data import app as data_app
from mmcl.cli.doctor import doctor
from mmcl.cli.evaluate import app as eval_app
from mmcl.cli.export import export
from mmcl.cli.memory import keep_freed_memory
from mmcl.cli.merge import app as merge_app
from mmcl.cli.plan import plan
from mmcl.cli.push import push
from mmcl.cli.recipes import app as recipes_app
from mmcl.cli.shrink import app as shrink_app
from mmcl.cli.train import train
from mmcl.cli.tune import tune

app = typer.Typer(
    name="mmcl",
    help="Train, judge and ship image-text embedding models.\n\nFirst steps: mmcl train quickstart",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("train", no_args_is_help=True)(train)
app.command("tune", no_args_is_help=True)(tune)
app.command("card", no_args_is_help=True)(card)
app.add_typer(eval_app, name="eval")
app.command("export", no_args_is_help=True)(export)
app.command("push", no_args_is_help=True)(push)
app.command("plan", no_args_is_help=True)(plan)
app.command("doctor", no_args_is_help=True)(doctor)
app.add_typer(data_app, name="data")
app.add_typer(shrink_app, name="shrink")
app.add_typer(merge_app, name="merge")
app.add_typer(recipes_app, name="recipes")

_INTERRUPTED = 130  # what shells report of a program that Ctrl-C ended


def _version(asked: bool) -> None:
    if asked:
        from mmcl import __version__

        typer.echo(f"mmcl {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what is loaded, cached and matched.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback on errors.")] = False,
) -> None:
    configure_logging(logging.INFO if verbose else logging.WARNING)
    if debug:
        os.environ["MMCL_DEBUG"] = "1"


def configure_logging(level: int = logging.WARNING) -> None:
    """Log mmcl's own messages to stderr, and keep libraries' progress bars out of the way."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger = logging.getLogger("mmcl")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def run_guarded(command: Callable[[], Any]) -> int:
    """Run a command; mmcl's own errors become one message and an exit code: 2 for bad config or usage, 1 for others."""
    keep_freed_memory()
    try:
        command()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
        if code == _INTERRUPTED:  # typer makes this of a Ctrl-C, without a word
            sys.stderr.write("interrupted\n")
        return code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return _INTERRUPTED
    except Exception as error:
        from mmcl.errors import ConfigError, MissingDependencyError, MmclError

        if os.environ.get("MMCL_DEBUG") or not isinstance(error, MmclError):
            raise
        sys.stderr.write(f"error: {error}\n")
        return 2 if isinstance(error, (ConfigError, MissingDependencyError)) else 1
    return 0


def main() -> None:
    """The console script."""
    sys.exit(run_guarded(app))


if __name__ == "__main__":
    main()
