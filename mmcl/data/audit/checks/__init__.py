"""The audit's checks: one subject a file, each check with its name, meaning and threshold."""

from mmcl.data.audit.check import Check
from mmcl.data.audit.checks.by_model import CLOSE_EMBEDDINGS, MISMATCHED_CAPTION
from mmcl.data.audit.checks.caption_text import CONTROL_CHARACTERS, LONG_CAPTION, MARKUP, TOO_MANY_TOKENS, WORDLESS
from mmcl.data.audit.checks.duplicates import DUPLICATE_IMAGE, NEAR_DUPLICATE, SAME_IMAGE_IN_GROUPS
from mmcl.data.audit.checks.leakage import LEAKED_CAPTION, LEAKED_GROUP, LEAKED_IMAGE
from mmcl.data.audit.checks.left_out import EMPTY_CAPTION, LEFT_OUT
from mmcl.data.audit.checks.phrases import BOILERPLATE, REPEATED_CAPTION, TEMPLATE
from mmcl.data.audit.checks.pictures import BLANK, EXTREME_ASPECT, HUGE, TINY, TRUNCATED, UNREADABLE
from mmcl.data.audit.checks.rows import BIG_GROUP, DUPLICATE_ID
from mmcl.data.audit.checks.storage import ANIMATED, ROTATED, UNUSUAL_MODE, WRONG_EXTENSION

# In the order of the report: what ends a run or spoils a result comes first.
CHECKS: dict[str, Check] = {
    check.name: check
    for check in (
        LEFT_OUT, EMPTY_CAPTION, UNREADABLE, TRUNCATED, HUGE,
        LEAKED_IMAGE, LEAKED_GROUP, LEAKED_CAPTION,
        DUPLICATE_IMAGE, NEAR_DUPLICATE, CLOSE_EMBEDDINGS, SAME_IMAGE_IN_GROUPS, DUPLICATE_ID, BIG_GROUP,
        BLANK, TINY, EXTREME_ASPECT,
        MISMATCHED_CAPTION, BOILERPLATE, REPEATED_CAPTION, TEMPLATE,
        WORDLESS, LONG_CAPTION, TOO_MANY_TOKENS, CONTROL_CHARACTERS, MARKUP,
        UNUSUAL_MODE, ANIMATED, ROTATED, WRONG_EXTENSION,
    )
}  # fmt: skip

__all__ = ["CHECKS"]
