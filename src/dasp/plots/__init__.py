"""Plots of an attribution, of several, or of interactions; each is one function in one file, takes matplotlib axes or makes
them, and returns them. Lines and text have the colours of matplotlib's style, and what is drawn on a dark page is bright.

matplotlib is imported when a plot is drawn, never on import: without it, drawing raises `MissingExtraError`.
"""

from __future__ import annotations

from .bar import bar as bar
from .beeswarm import beeswarm as beeswarm
from .compare import compare as compare
from .frontier import frontier as frontier
from .heatmap import heatmap as heatmap
from .image import image as image
from .image_per_class import image_per_class as image_per_class
from .interaction_network import interaction_network as interaction_network
from .interactions import interactions as interactions
from .removal import removal as removal
from .sequence import sequence as sequence
from .time_series import time_series as time_series
from .tokens import tokens as tokens
from .waterfall import waterfall as waterfall
