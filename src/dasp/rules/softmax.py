"""Rules for softmax and log-softmax over jointly Gaussian scores; approximate."""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor

from ..gaussian import Gaussian
from ..special import legendre
from .families import Context
from .registry import RULES, Rule

aten = torch.ops.aten

ROUNDS = 3
PATH_NODES = 4


def _contrast_variance(p: Tensor, explained: Tensor, rest: Tensor, axis: int) -> Tensor:
    """Variance of `s_j - p.s` for every j: from the centred loadings, and from the rests."""
    shared = (p.square() * rest).sum(axis, keepdim=True)
    return explained + rest * (1 - 2 * p) + shared


def _centred(p: Tensor, value: Gaussian, axis: int) -> tuple[Tensor | None, Tensor]:
    """Loadings of `s_j - p.s`, and the variance that they explain."""
    if value.factors is None:
        return None, torch.zeros_like(p)
    at = axis % p.dim() + 1
    centred = value.factors - (p * value.factors).sum(at, keepdim=True)
    return centred, centred.square().sum(0)


def _mean_softmax(value: Gaussian, axis: int, scale: float = 1.0) -> Tensor:
    """`E softmax(s)` by the scaled fixed point `p <- softmax(k (m - p.m))`, `k_j = (1 + pi/8 Var(s_j - p.s))^-1/2`.

    `scale` multiplies the covariance of s. The probit approximation of the logistic function (MacKay, 1992), applied to
    the contrasts of each score with the mean score. Scores of minus infinity (masked) have probability 0.
    """
    masked = value.mean.isneginf()
    mean = value.mean.masked_fill(masked, 0.0)
    p = value.mean.softmax(axis)
    for _ in range(ROUNDS):
        _, explained = _centred(p, value, axis)
        v = scale * _contrast_variance(p, explained, value.rest, axis)
        k = (1 + pi / 8 * v).rsqrt()
        contrast = k * (mean - (p * mean).sum(axis, keepdim=True))
        p = contrast.masked_fill(masked, -torch.inf).softmax(axis)
    return p


def softmax(context: Context, value: Gaussian, axis: int, dtype: torch.dtype | bool | None = None) -> Gaussian:
    """`exp(s_j) / sum exp(s)`; mean by the scaled fixed point, loadings `p (k Lc - p.(k Lc))` with `Lc = L - p.L`,
    variance `g (1 - (1 + 2 g v)^-1/2)` with `g = p (1 - p)` and v the variance of `s_j - p.s`; approximate."""
    value = _cast(value, dtype)
    p = _mean_softmax(value, axis)
    centred, explained = _centred(p, value, axis)
    v = _contrast_variance(p, explained, value.rest, axis).clamp(min=0)
    g = p * (1 - p)
    var = g * (1 - (1 + 2 * g * v).rsqrt())
    if centred is None:
        return Gaussian(p, None, var)
    scaled = (1 + pi / 8 * v).rsqrt() * centred
    loadings = p * (scaled - (p * scaled).sum(axis % p.dim() + 1, keepdim=True))
    return Gaussian(p, loadings, (var - loadings.square().sum(0)).clamp(min=0))


def log_softmax(context: Context, value: Gaussian, axis: int, dtype: torch.dtype | bool | None = None) -> Gaussian:
    """`s_j - logsumexp(s)`; approximate.

    With t scaling the covariance S of s, `d/dt E logsumexp = 1/2 E tr(H S)` and `tr(H S) = sum_j p_j Var(s_j - p.s)`
    (H = diag p - p p'); integrated over t from 0 to 1 with p at t from the softmax rule. Loadings `L - p.L`.
    """
    value = _cast(value, dtype)
    rule = legendre(PATH_NODES)
    total = value.mean.logsumexp(axis, keepdim=True)
    for t, w in zip(rule.nodes, rule.weights, strict=True):
        p = _mean_softmax(value, axis, t)
        _, explained = _centred(p, value, axis)
        curvature = (p * _contrast_variance(p, explained, value.rest, axis)).sum(axis, keepdim=True)
        total = total + 0.5 * w * curvature
    p = _mean_softmax(value, axis)
    centred, _ = _centred(p, value, axis)
    rest = value.rest * (1 - 2 * p) + (p.square() * value.rest).sum(axis, keepdim=True)
    return Gaussian(value.mean - total, centred, rest.clamp(min=0))


def _cast(value: Gaussian, dtype: torch.dtype | bool | None) -> Gaussian:
    """The dtype asked for; `_softmax` has a flag in its place, which says half precision becomes single."""
    if not isinstance(dtype, torch.dtype):
        return value
    factors = None if value.factors is None else value.factors.to(dtype)
    return Gaussian(value.mean.to(dtype), factors, value.rest.to(dtype))


def _owners(labels: Tensor, axis: int, dtype: torch.dtype | bool | None = None) -> Tensor | None:
    """The one player who owns a whole slice, None if two players meet in one."""
    owner = labels.amax(axis, keepdim=True)
    if bool(((labels > 0) & (labels != owner)).any()):
        return None
    return owner.expand_as(labels)


for _op, _apply in (
    (aten.softmax.int, softmax),
    (aten._softmax.default, softmax),
    (aten.log_softmax.int, log_softmax),
    (aten._log_softmax.default, log_softmax),
):
    RULES.add(Rule(_op, False, _apply, owners=_owners))
