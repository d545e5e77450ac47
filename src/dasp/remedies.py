"""What to do instead where an operation has no moment rule."""

from __future__ import annotations

from collections.abc import Sequence

ORDERED = "which element comes where hangs on their values: explain the scores before it"
CHOICE = "its result jumps between whole numbers: return the scores before it, and explain one of them with target="
BRANCH = "a condition on a random value: write it as relu, clamp, maximum or minimum, or give the mask as a further argument"
MASK = (
    "its mask hangs on the players, or it drops out: make the mask outside the model and give it as a further argument "
    "(additional_forward_args), as an attention mask"
)
PLACES = "it reads or writes at places that hang on values: give the places as a further argument, or explain what chooses them"
RANDOM = "it draws random numbers: export the model in evaluation mode, or take the noise out of its forward"
SHAPE = "the shape of its result hangs on values: mask with a known mask instead"
NUMBER = "a number of Python taken from a random value: keep it a tensor"
INVERSE = "a decomposition of a random matrix: compute it beforehand if its matrix is known, else use sampling"
POSITIONS = "the positions of maxima hang on values: use the pooled values only"

INDICES = "(indices)"
"""Written behind an operation of which the positions that it found are used."""

_BY_NAME: dict[str, str] = {
    **dict.fromkeys(
        ("sort", "argsort", "topk", "kthvalue", "median", "nanmedian", "mode", "msort", "cummax", "cummin"), ORDERED
    ),
    **dict.fromkeys(
        (
            "argmax", "argmin", "searchsorted", "bucketize", "round", "floor", "ceil", "trunc", "frac", "div", "floor_divide",
            "remainder", "fmod", "histc", "_to_copy",
        ),
        CHOICE,
    ),
    **dict.fromkeys(
        (
            "gt", "ge", "lt", "le", "eq", "ne", "where", "logical_and", "logical_or", "logical_not", "logical_xor",
            "bitwise_and", "bitwise_or", "bitwise_not", "bitwise_xor", "any", "all", "isnan", "isinf", "signbit", "heaviside",
            "copysign", "masked_fill", "masked_scatter",
        ),
        BRANCH,
    ),
    **dict.fromkeys(
        (
            "embedding", "gather", "index", "index_select", "index_put", "index_add", "index_copy", "scatter", "scatter_add",
            "take",
        ),
        PLACES,
    ),
    **dict.fromkeys(
        (
            "bernoulli", "multinomial", "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like",
            "normal", "uniform", "exponential", "geometric", "cauchy", "log_normal", "poisson", "dropout", "native_dropout",
            "rrelu", "rrelu_with_noise", "rrelu_with_noise_functional", "fractional_max_pool2d", "fractional_max_pool3d",
        ),
        RANDOM,
    ),
    "scaled_dot_product_attention": MASK,
    **dict.fromkeys(("nonzero", "masked_select", "repeat_interleave", "bincount", "_unique2", "unique_dim"), SHAPE),
    **dict.fromkeys(("_local_scalar_dense", "item"), NUMBER),
    **dict.fromkeys(
        (
            "inverse", "linalg_inv_ex", "_linalg_svd", "_linalg_eigh", "_linalg_det", "_linalg_slogdet", "linalg_qr",
            "_linalg_solve_ex", "linalg_cholesky_ex", "linalg_lu_factor_ex", "linalg_matrix_exp", "linalg_ldl_factor_ex",
            "linalg_lu", "linalg_pinv", "linalg_eig", "linalg_solve_triangular", "linalg_householder_product", "cholesky",
            "cholesky_solve", "cholesky_inverse",
        ),
        INVERSE,
    ),
}  # fmt: skip
USUAL = "add a rule (docs/rules.md), or explain without rules: dasp.PermutationSampling(), dasp.Exact()"
"""The way that is open for every operation."""


def instead(op: str) -> str:
    """Advice for an operation named as in `aten.sort.default`, or `aten.max_pool2d_with_indices.default (indices)`.

    >>> instead("aten.argmax.default").startswith("its result jumps")
    True
    """
    if op.endswith(INDICES):
        return POSITIONS
    parts = op.split(".")
    return _BY_NAME.get(parts[1] if len(parts) > 1 else op, USUAL)


def refusal(missing: Sequence[tuple[str, str]]) -> str:
    """The text that refuses a network: its operations without a rule, each with its layer, those with equal advice together.

    Args:
        missing: operation and layer, in the order of the network; what comes twice is named once.

    >>> print(refusal([("aten.sort.default", "first"), ("aten.i0.default", "last"), ("aten.topk.default", "last")]))
    no moment rule for these operations on random values; nothing was computed:
      aten.sort.default (layer first)
      aten.topk.default (layer last)
        which element comes where hangs on their values: explain the scores before it
      aten.i0.default (layer last)
      For any of them, add a rule (CONTRIBUTING.md and docs/rules.md show how), or explain this model with
      dasp.PermutationSampling() or dasp.Exact(), which need no rules.
    """
    groups: dict[str, list[str]] = {}
    for op, layer in dict.fromkeys(missing):
        groups.setdefault(instead(op), []).append(f"  {op} (layer {layer})")
    others = groups.pop(USUAL, [])
    return "\n".join(
        [
            "no moment rule for these operations on random values; nothing was computed:",
            *(line for advice, places in groups.items() for line in (*places, f"    {advice}")),
            *others,
            "  For any of them, add a rule (CONTRIBUTING.md and docs/rules.md show how), or explain this model with",
            "  dasp.PermutationSampling() or dasp.Exact(), which need no rules.",
        ]
    )
