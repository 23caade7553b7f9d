"""Judge several models on several data sets: the same as `mmcl eval suite`, on one process or many.

accelerate launch recipes/eval_suite.py --config suite.yaml -o results
"""

import sys

from mmcl.cli.main import app, run_guarded

if __name__ == "__main__":
    sys.exit(run_guarded(lambda: app(["eval", "suite", *sys.argv[1:]])))
