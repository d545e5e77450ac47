"""Moment rules: how every operation acts on a random value. One file per kind of operation."""

from . import activations as activations
from . import arithmetic as arithmetic
from . import linear as linear
from . import moving as moving
from . import pooling as pooling
from . import softmax as softmax
from .families import Context as Context
from .families import LinearRule as LinearRule
from .registry import RULES as RULES
from .registry import Rule as Rule
