"""Push a run to the Hub: the same as `mmcl push RUN owner/name`.

python recipes/push_to_hub.py runs/quickstart owner/quickstart --dry-run
"""

import sys

from mmcl.cli.main import app, run_guarded

if __name__ == "__main__":
    sys.exit(run_guarded(lambda: app(["push", *sys.argv[1:]])))
