"""The larger of two Gaussians (Clark, 1961)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..truncated import density_gradients, tail


@dataclass(frozen=True)
class MaxMoments:
    """Moments of `max(A, B)`.

    Attributes:
        mean: `E max(A, B)`.
        var: `Var max(A, B)`.
        weight: `P(A > B)`; `Cov(max(A, B), Y) = weight Cov(A, Y) + (1 - weight) Cov(B, Y)`.
    """

    mean: Tensor  # (*s)
    var: Tensor  # (*s)
    weight: Tensor  # (*s)


def max_of_two(ma: Tensor, mb: Tensor, va: Tensor, vb: Tensor, c: Tensor | None = None) -> MaxMoments:
    """`max(A, B)` for jointly Gaussian A and B; exact (Clark 1961, equations 2 to 7).

    With `D = A - B`, `d = ma - mb`, `t^2 = va + vb - 2 c`, `alpha = d/t`, `w = Phi(alpha)` and the means of both parts
    of D, `r = E max(D, 0) = d w + t phi(alpha)` and `l = E max(-D, 0) = r - d`:

        mean = max(ma, mb) + min(r, l),    var = w va + (1 - w) vb - r l.

    The variance is Clark's in centred form: nothing cancels in it but `r l`, which is at most the variance of D.
    At `t = 0` the result is the larger one, at a tie the average of both.

    Args:
        ma: mean of A (*s).
        mb: mean of B (*s).
        va: variance of A (*s), not negative.
        vb: variance of B (*s), not negative.
        c: covariance of A and B (*s); None for 0.
    """
    t2 = va + vb if c is None else torch.add(va + vb, c, alpha=-2.0)
    mean, var, weight, _ = _Max.apply(ma, mb, va, vb, t2.clamp_min(0.0))  # type: ignore[no-untyped-call]
    return MaxMoments(mean, var, weight)


class _Max(torch.autograd.Function):
    """Gradients, with u the density of D at 0:

    mean: dma = w, dmb = 1 - w, dt2 = u/2;  weight: dd = u, dt2 = -d u / 2 t2;
    var:  dva = w, dvb = 1 - w, dd = u (va - vb) + (1 - w) r - w l, dt2 = -(u d / t2)(va - vb) / 2 - u (r + l) / 2.
    """

    @staticmethod
    def forward(ctx: Any, ma: Tensor, mb: Tensor, va: Tensor, vb: Tensor, t2: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        d = ma - mb
        weight, spread = tail(d, t2, both=True)
        right = torch.addcmul(spread, d, weight).clamp_min_(0.0)
        left = torch.addcmul(spread, d, torch.rsub(weight, 1.0), value=-1.0).clamp_min_(0.0)
        mean = torch.maximum(ma, mb).add_(torch.minimum(right, left))
        var = torch.lerp(vb, va, weight).addcmul_(right, left, value=-1.0).clamp_min_(0.0)
        density = spread.div_(t2.clamp_min(torch.finfo(t2.dtype).tiny))
        ctx.save_for_backward(ma, mb, va, vb, t2, mean, weight, density)
        return mean, var, weight, density

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        ma, mb, va, vb, t2, mean, weight, density = ctx.saved_tensors
        g_mean, g_var, g_weight, g_density = grads
        if all(grad is None for grad in grads):
            return (None,) * 5
        dma = dmb = dt2 = torch.zeros((), dtype=ma.dtype, device=ma.device)
        dva: Tensor | None = None
        dvb: Tensor | None = None
        if g_mean is not None:
            part = g_mean * weight
            dma, dmb, dt2 = part, g_mean - part, 0.5 * g_mean * density
        if g_var is not None:
            dva = g_var * weight
            dvb = g_var - dva
            right, left = mean - mb, mean - ma
            # d var / d w is va - vb; the rest of d var is that of -r l.
            g_step = g_var * (va - vb)
            g_weight = g_step if g_weight is None else g_weight + g_step
            dd = g_var * (right - weight * (right + left))
            dma, dmb = dma + dd, dmb - dd
            dt2 = torch.addcmul(dt2, g_var * density, right + left, value=-0.5)
        if g_weight is not None or g_density is not None:
            dd, more = density_gradients(ma - mb, t2, density, g_weight, g_density)
            dma, dmb, dt2 = dma + dd, dmb - dd, dt2 + more
        return dma, dmb, dva, dvb, dt2
