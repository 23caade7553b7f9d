"""``python -m mmcl`` and ``accelerate launch -m mmcl train ...``."""

from mmcl.cli.main import main

main()
