"""What to do instead where an operation has no moment rule."""

from __future__ import annotations

ORDERED = "which element comes where hangs on their values: explain the scores before it"
CHOICE = "its result jumps between whole numbers: return the scores and explain one of them with target="
BRANCH = "a condition on a random value: write it as relu, clamp, maximum or minimum, or give the mask as a further argument"
RANDOM = "it draws random numbers: export the model in evaluation mode, or take the noise out of its forward"
SHAPE = "the shape of its result hangs on values: mask with a known mask instead"
INVERSE = "a decomposition of a random matrix: compute it beforehand if its matrix is known, else use sampling"

_BY_NAME: dict[str, str] = {
    **dict.fromkeys(("sort", "argsort", "topk", "kthvalue", "median", "nanmedian", "mode", "msort", "unique"), ORDERED),
    **dict.fromkeys(("argmax", "argmin", "searchsorted", "bucketize", "round", "floor", "ceil", "trunc", "frac"), CHOICE),
    **dict.fromkeys(("gt", "ge", "lt", "le", "eq", "ne", "where", "logical_and", "logical_or", "logical_not", "isnan"), BRANCH),
    **dict.fromkeys(("bernoulli", "multinomial", "rand_like", "randn_like", "normal", "dropout", "native_dropout"), RANDOM),
    **dict.fromkeys(("nonzero", "masked_select", "repeat_interleave", "_local_scalar_dense", "item"), SHAPE),
    **dict.fromkeys(("inverse", "linalg_inv_ex", "_linalg_svd", "_linalg_eigh", "linalg_qr", "_linalg_solve_ex"), INVERSE),
}
USUAL = "add a rule (docs/rules.md), or explain without rules: dasp.PermutationSampling(), dasp.Exact()"
"""The way that is open for every operation."""


def instead(op: str) -> str:
    """Advice for an operation named as in `aten.sort.default`, or `aten.max_pool2d_with_indices.default (indices)`.

    >>> instead("aten.argmax.default").startswith("its result jumps")
    True
    """
    if op.endswith(" (indices)"):
        return "the positions of maxima hang on values: use the pooled values only"
    parts = op.split(".")
    return _BY_NAME.get(parts[1] if len(parts) > 1 else op, USUAL)
