"""Shapley values of PyTorch networks by moment propagation: all features at once, no sampling, the error measured."""

from . import players as players
from . import plots as plots
from .attribution import Attribution as Attribution
from .audit import Audit as Audit
from .errors import CaptureError as CaptureError
from .errors import CostError as CostError
from .errors import DaspError as DaspError
from .errors import DataFileError as DataFileError
from .errors import InputError as InputError
from .errors import InputTypeError as InputTypeError
from .errors import MemoryBoundError as MemoryBoundError
from .errors import MissingExtraError as MissingExtraError
from .errors import MissingRuleError as MissingRuleError
from .errors import ModelFileError as ModelFileError
from .errors import NumericsError as NumericsError
from .errors import OutputFileError as OutputFileError
from .estimators import Estimate as Estimate
from .estimators import Estimator as Estimator
from .estimators import Exact as Exact
from .estimators import PermutationSampling as PermutationSampling
from .estimators import Propagation as Propagation
from .explainer import Explainer as Explainer
from .game import Players as Players
from .model import Model as Model
from .propagate import OpSupport as OpSupport
from .propagate import Support as Support
