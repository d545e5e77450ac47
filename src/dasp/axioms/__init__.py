"""By how much attributions violate the axioms that the paper holds them to: measured, on networks made for it or on your own.

For a model f, an input x, a baseline b and attributions a of n players, with `|a|` the sum of magnitudes:

- **completeness** (efficiency; Shapley 1953, Sundararajan, Taly and Yan 2017): the attributions add up to the change of the
  output. Violation: `|sum a_i - (f(x) - f(b))|` over the larger of `|a|` and `|f(x) - f(b)|`.
- **null player** (dummy; Shapley 1953, Sundararajan and Najmi 2020): a player that changes no coalition's output gets nothing.
  Violation: its share `|a_i| / |a|`.
- **symmetry** (Shapley 1953, Young 1985): players that change every coalition's output alike get the same. Violation:
  `|a_i - a_j| / (|a_i| + |a_j|)`, or over the mean of all |a_i| where that is more.
- **linearity** (Shapley 1953; additivity, and scale): the attributions of `2 f - g` are twice those of f less those of g.
- **continuity** (Ancona, Oztireli and Gross 2019): a continuous f has attributions that are continuous in x. Violation: the
  jump of a between two inputs with hardly any distance between them, less what a slope makes there.
- **implementation invariance** (Sundararajan, Taly and Yan 2017): networks that compute the same have the same attributions.

The last three compare attributions a with a' that should be equal, by `|a - a'| / (|a| + |a'|)`. So 0 is no violation, and 1
one as large as the attributions themselves. A size up to 1e-8 in double precision (1e-4 in single) is rounding, shown as 0.

`table` measures methods on networks constructed for each axiom; `measure` a user's own explainer, model and rows; `External`
makes any attribution function an estimator, so that both take those of other packages.
"""

from .constructed import table as table
from .external import External as External
from .measurement import AXIOMS as AXIOMS
from .measurement import Measurement as Measurement
from .measurement import Report as Report
from .measurement import Table as Table
from .own import measure as measure
