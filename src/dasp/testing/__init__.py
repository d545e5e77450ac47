"""A conformance suite for moment rules: one call compares a rule with its operation.

    import torch
    from dasp.testing import Random, check_rule

    print(check_rule(torch.ops.aten.tanh.default, (Random((2, 5)),), tolerance=0.01))

Works for the rules of dasp and for those of your own operations (`torch.library`), in tests of your own.
"""

from .report import CheckResult as CheckResult
from .report import Measured as Measured
from .report import RuleError as RuleError
from .report import RuleReport as RuleReport
from .samples import AGAIN as AGAIN
from .samples import Random as Random
from .samples import Sample as Sample
from .suite import CHECKS as CHECKS
from .suite import check_rule as check_rule
from .suite import measure as measure
