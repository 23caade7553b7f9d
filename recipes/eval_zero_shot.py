"""Judge a model by zero-shot classification: the same as `mmcl eval zeroshot MODEL DATA`.

python recipes/eval_zero_shot.py runs/quickstart shapes:test --json zeroshot.json
"""

import sys

from mmcl.cli.main import app, run_guarded

if __name__ == "__main__":
    sys.exit(run_guarded(lambda: app(["eval", "zeroshot", *sys.argv[1:]])))
