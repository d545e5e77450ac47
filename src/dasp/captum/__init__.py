"""The estimators as attribution methods of captum: its calls, its layers, its visualisation, NoiseTunnel and metrics.

    from dasp.captum import LayerPropagation, Propagation

    values, delta = Propagation(model).attribute(inputs, baselines, target=1, return_convergence_delta=True)

`attribute` means what captum's own methods mean by it (Kokhlikyan et al., 2020, https://arxiv.org/abs/2009.07896). Where they
leave open what happens, it is right here or refused: a `feature_mask` may leave numbers out, a model in training mode is
explained in evaluation mode and left as it was, and targets that do not fit the output are errors.
"""

from .layers import LayerExact as LayerExact
from .layers import LayerPermutationSampling as LayerPermutationSampling
from .layers import LayerPropagation as LayerPropagation
from .layers import LayerShapley as LayerShapley
from .methods import DASP as DASP
from .methods import Exact as Exact
from .methods import PermutationSampling as PermutationSampling
from .methods import Propagation as Propagation
from .methods import Refine as Refine
from .methods import Regression as Regression
from .methods import Shapley as Shapley
from .methods import VertexGradients as VertexGradients
