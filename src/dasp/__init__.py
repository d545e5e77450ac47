"""Shapley values of PyTorch networks by moment propagation: all features at once, no sampling, the error measured."""

import importlib
from typing import TYPE_CHECKING, Any

from . import axioms as axioms
from . import batch as batch
from . import huggingface as huggingface
from . import players as players
from . import plots as plots
from . import report as report
from .attribution import Attribution as Attribution
from .audit import Audit as Audit
from .background import PerRow as PerRow
from .errors import AdditivityError as AdditivityError
from .errors import CaptureError as CaptureError
from .errors import CoalitionError as CoalitionError
from .errors import CompletenessWarning as CompletenessWarning
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
from .errors import RuleFault as RuleFault
from .errors import WorkerError as WorkerError
from .estimators import DASP as DASP
from .estimators import Estimate as Estimate
from .estimators import Estimator as Estimator
from .estimators import Exact as Exact
from .estimators import PermutationSampling as PermutationSampling
from .estimators import Propagation as Propagation
from .estimators import Refine as Refine
from .estimators import Regression as Regression
from .estimators import VertexGradients as VertexGradients
from .explainer import Explainer as Explainer
from .foreign import from_sklearn as from_sklearn
from .game import Players as Players
from .interactions import Interactions as Interactions
from .model import Model as Model
from .propagate import OpSupport as OpSupport
from .propagate import Support as Support
from .semivalues import Banzhaf as Banzhaf
from .semivalues import BetaShapley as BetaShapley
from .semivalues import Semivalue as Semivalue

if TYPE_CHECKING:
    from . import captum as captum
    from . import shap as shap



def __getattr__(name: str) -> Any:
    """`dasp.captum` and `dasp.shap`, which need an extra, when they are first asked for."""
    if name in ("captum", "shap"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
