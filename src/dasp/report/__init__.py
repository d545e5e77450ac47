"""A result as one page that stands by itself: settings, measured error, importance, and a table of rows to look into."""

from .front import Report as Report
from .front import write as write
