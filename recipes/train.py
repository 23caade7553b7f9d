"""Train a recipe on one process or many: the same as `mmcl train`, for `accelerate launch` and `torchrun`.

    accelerate launch recipes/train.py --config recipes/configs/quickstart.yaml train.batch_size=256
    torchrun --standalone --nproc_per_node 2 recipes/train.py --config quickstart
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmcl.cli.main import configure_logging, run_guarded
from mmcl.cli.train import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="YAML file, or the name of a shipped recipe")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="recipe keys to change")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the run folder")
    parser.add_argument("--smoke", action="store_true", help="a few steps only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the closing metrics as JSON")
    given = parser.parse_args()
    configure_logging()
    sys.exit(
        run_guarded(
            lambda: train(given.config, given.overrides, resume=given.resume, smoke=given.smoke, json_file=given.json)
        )
    )


if __name__ == "__main__":
    main()
