"""Whole data sets: streamed in, explained in parts, resumable; on this machine or on a Ray cluster."""

from .folder import Aside as Aside
from .front import ENGINES as ENGINES
from .front import ON_ERROR as ON_ERROR
from .front import Summary as Summary
from .front import explain as explain
from .front import mean as mean
from .opening import open_source as open_source
