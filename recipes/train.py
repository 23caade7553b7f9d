"""Train a recipe on one process or many: the same as `mmcl train`, for `accelerate launch` and `torchrun`.

    accelerate launch recipes/train.py --config recipes/configs/quickstart.yaml train.batch_size=256
    torchrun --standalone --nproc_per_node 2 recipes/train.py --config quickstart

What follows --config is as for `mmcl train`: key=value ..., --resume, --smoke, --json FILE.
"""

from __future__ import annotations

import argparse
import sys

from mmcl.cli.main import app, run_guarded


def main() -> None:
    """Read --config and hand the rest to `mmcl train`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", required=True, metavar="RECIPE", help="YAML file, or the name of a shipped recipe")
    given, rest = parser.parse_known_args()
    sys.exit(run_guarded(lambda: app(["train", given.config, *rest])))


if __name__ == "__main__":
    main()
