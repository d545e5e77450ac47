"""Ways to compute Shapley values: one file each."""

from .base import Estimate as Estimate
from .base import Estimator as Estimator
from .dasp import DASP as DASP
from .exact import Exact as Exact
from .gradients import VertexGradients as VertexGradients
from .propagation import Propagation as Propagation
from .refine import Refine as Refine
from .regression import Regression as Regression
from .sampling import PermutationSampling as PermutationSampling
