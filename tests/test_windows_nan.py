"""Who depends on whom is told by NaN: operations that are followed pass it on, vectorised or not."""

import pytest
import torch
import torch.nn.functional as F


@pytest.mark.parametrize(
    "operation",
    [
        F.relu,
        F.relu6,
        F.hardtanh,
        F.hardswish,
        F.hardsigmoid,
        F.hardshrink,
        F.softshrink,
        F.gelu,
        F.silu,
        F.mish,
        F.softplus,
        F.elu,
        F.celu,
        F.leaky_relu,
        F.logsigmoid,
        torch.sigmoid,
        torch.tanh,
        torch.erf,
        torch.abs,
        torch.square,
        torch.sqrt,
        lambda x: F.threshold(x, 0.1, 0.2),
        lambda x: x.clamp(-1, 1),
        lambda x: x.clamp(min=0),
        lambda x: x.clamp(max=torch.zeros(())),
        lambda x: torch.maximum(x, torch.ones_like(x)),
        lambda x: torch.minimum(torch.zeros_like(x), x),
        lambda x: torch.logaddexp(x, torch.zeros_like(x)),
        lambda x: x.amax(2),
        lambda x: x.amin(2),
        lambda x: x.max(2)[0],
        lambda x: x.min(2)[0],
        lambda x: x.logsumexp(2),
        lambda x: x.softmax(2),
        lambda x: x.log_softmax(2),
        lambda x: x.prod(2),
        lambda x: x.cumsum(2),
        lambda x: x.std(2),
        lambda x: x.norm(dim=2),
        lambda x: x.norm(p=torch.inf, dim=2),
        lambda x: F.max_pool1d(x, 3, padding=1),
        lambda x: F.max_pool1d(x, 2, 1, dilation=3),
        lambda x: F.adaptive_max_pool1d(x, 5),
        lambda x: F.max_pool2d(x, (1, 3)),
        lambda x: F.adaptive_max_pool2d(x, (3, 4)),
        lambda x: F.max_pool3d(x[:, None, None], (1, 2, 2)),
        lambda x: F.avg_pool1d(x, 3),
        lambda x: F.adaptive_avg_pool1d(x, 7),
        lambda x: F.conv1d(x, torch.zeros(4, 4, 3)),
        lambda x: F.layer_norm(x, (40,)),
        lambda x: F.group_norm(x, 2),
        lambda x: F.instance_norm(x),
        lambda x: x @ torch.zeros(40, 3),
        lambda x: F.interpolate(x, scale_factor=2, mode="linear"),
        lambda x: F.cosine_similarity(x, torch.ones_like(x), dim=2),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("place", [0, 17, 38])
def test_what_is_followed_passes_nan_on(operation, dtype, place):
    x = torch.randn(2, 4, 40, generator=torch.Generator().manual_seed(0)).to(dtype)
    x[0, 1, place] = torch.nan
    torch.set_default_dtype(dtype)
    try:
        result = operation(x)
    finally:
        torch.set_default_dtype(torch.float32)
    assert bool(result[0].isnan().any())
    if operation is not torch.sqrt:  # of negative numbers
        assert not bool(result[1].isnan().any())
