"""Plots of an attribution or of interactions; each is one function in one file, takes matplotlib axes or makes them, and
returns them.

matplotlib is imported when a plot is drawn, never on import: without it, drawing raises `MissingExtraError`.
"""

from __future__ import annotations

from .bar import bar as bar
from .beeswarm import beeswarm as beeswarm
from .image import image as image
from .interactions import interactions as interactions
from .waterfall import waterfall as waterfall
