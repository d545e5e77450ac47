"""Moment rules: how every operation acts on a random value. One file per kind of operation."""

from . import activations as activations
from . import arithmetic as arithmetic
from . import attention as attention
from . import curves as curves
from . import extremes as extremes
from . import linear as linear
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
from .registry import RULES as RULES
from .registry import Rule as Rule
