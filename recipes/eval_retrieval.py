"""Judge a model by retrieval: the same as `mmcl eval retrieval MODEL DATA`.

python recipes/eval_retrieval.py runs/quickstart shapes:test --json retrieval.json
"""

import sys

from mmcl.cli.main import app, run_guarded

if __name__ == "__main__":
    sys.exit(run_guarded(lambda: app(["eval", "retrieval", *sys.argv[1:]])))
