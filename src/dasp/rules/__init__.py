"""Moment rules: how every operation acts on a random value. One file per kind of operation.

A rule of your own needs what is named here: a family (`elementwise`, `linear`, `moves`) or `Rule` and `RULES`, and the values
that they are written in. docs/rules.md shows one.

>>> from dasp.rules import RULES, Rule, elementwise, linear, moves
"""

from ..gaussian import Gaussian as Gaussian
from ..gaussian import LinearMap as LinearMap
from ..special import Moments as Moments
from . import activations as activations
from . import arithmetic as arithmetic
from . import attention as attention
from . import curves as curves
from . import extremes as extremes
from . import linear as _linear  # noqa: F401 - has its rules registered; here `linear` is the family of that name
from . import moving as moving
from . import normalising as normalising
from . import placing as placing
from . import pooling as pooling
from . import powers as powers
from . import resizing as resizing
from . import similarity as similarity
from . import softmax as softmax
from . import statistics as statistics
from .families import Context as Context
from .families import LinearRule as LinearRule
from .families import elementwise as elementwise
from .families import linear as linear
from .families import moves as moves
from .registry import RULES as RULES
from .registry import Rule as Rule
