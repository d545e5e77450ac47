"""Sample arguments of an operation, and its rule run on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from ..errors import InputError, InputTypeError
from ..gaussian import Gaussian
from ..rules import Context, Rule

FACTORS = 3
"""Shared factors of the random arguments."""


@dataclass(frozen=True)
class Random:
    """Stands for a random argument among the sample arguments of an operation.

    Attributes:
        shape: its shape, any sequence of sizes.
        shift: 0 for means around 0. Otherwise all means lie beyond it: above a positive one, below a negative one. For
            functions such as the logarithm, take one so large that Gaussian samples stay in the domain (5, say).
    """

    shape: Sequence[int]
    shift: float = 0.0

    def means(self, generator: torch.Generator) -> Tensor:
        """Means, (*shape), in float64."""
        mean = torch.randn(tuple(self.shape), generator=generator, dtype=torch.float64)
        if self.shift == 0:
            return mean
        return self.shift + (mean.abs() if self.shift > 0 else -mean.abs())


AGAIN = Random(())
"""The same random value as the random argument before, as in `x * x`."""


@dataclass(frozen=True)
class Sample:
    """One call of an operation.

    Attributes:
        args: its positional arguments, `Random` in place of random ones; known floating tensors in float64.
        options: its keyword arguments.
        rows: whether axis 0 is a batch axis of all random arguments and of the result, its rows independent of each other.
    """

    args: Sequence[Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    rows: bool = True

    def __str__(self) -> str:
        def shown(one: Any) -> str:
            if one is AGAIN:
                return "again"
            if isinstance(one, (list, tuple)):
                return f"[{', '.join(map(shown, one))}]"
            return str(tuple(one.shape)).replace(" ", "") if isinstance(one, (Random, Tensor)) else str(one)

        return ", ".join([*map(shown, self.args), *(f"{name}={shown(one)}" for name, one in self.options.items())])

    @property
    def places(self) -> list[Random]:
        """Its random arguments, those that come again left out."""
        return [one for one in self.flat if isinstance(one, Random) and one is not AGAIN]

    @property
    def flat(self) -> list[Any]:
        """Its positional arguments, lists taken apart."""
        return [one for arg in self.args for one in (arg if isinstance(arg, (list, tuple)) else [arg])]

    def filled(self, values: Sequence[Any]) -> list[Any]:
        """The positional arguments with values in place of the random ones."""
        queue: Iterator[Any] = iter(values)
        last: Any = None

        def fill(one: Any) -> Any:
            nonlocal last
            if isinstance(one, Random):
                last = last if one is AGAIN else next(queue)
                return last
            return one

        return [type(a)(fill(b) for b in a) if isinstance(a, (list, tuple)) else fill(a) for a in self.args]

    def mapped(self, change: Callable[[Any], Any]) -> Sample:
        """With every known argument changed."""
        args = [type(a)(change(b) for b in a) if isinstance(a, (list, tuple)) else change(a) for a in self.args]
        return replace(self, args=args, options={name: change(one) for name, one in self.options.items()})

    def checked(self) -> Sample:
        """This sample.

        Raises:
            InputError: nothing in it is random, the first random argument says that it comes again, or a batch is missing.
            InputTypeError: a known tensor is neither float64 nor of whole numbers.
        """
        random = [one for one in self.flat if isinstance(one, Random)]
        if not random or random[0] is AGAIN:
            raise InputError(f"samples: ({self}) has no random argument; put dasp.testing.Random(shape) in place of one.")
        if self.rows and (len({shape[:1] for shape in self.shapes}) != 1 or () in self.shapes):
            raise InputError(
                f"samples: the random arguments of ({self}) have no common number of rows in axis 0; "
                "give dasp.testing.Sample(args, rows=False) if that is not a batch axis."
            )
        for one in (*self.flat, *self.options.values()):
            if isinstance(one, Tensor) and one.is_floating_point() and one.dtype != torch.float64:
                raise InputTypeError(f"samples: ({self}) holds a tensor of {one.dtype}; rules are checked in float64.")
        return self

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the random arguments."""
        return [tuple(one.shape) for one in self.places]


@dataclass
class Law:
    """As much of a law of coalitions as a rule may ask for."""

    conditioned: bool = False
    factor_presence: Tensor | None = None

    def moments(self, owned: Any) -> Gaussian:
        """Rules are checked on Gaussians."""
        raise NotImplementedError

    def meet(self, owned: Any, linear: Any, axis: int) -> Gaussian:
        """Rules are checked on Gaussians."""
        raise NotImplementedError


PLAIN = Law()
"""Nobody is conditioned on."""


@dataclass(frozen=True)
class Case:
    """A rule, its operation, and one sample."""

    op: OpOverload
    rule: Rule
    sample: Sample

    @property
    def exact(self) -> bool:
        """Whether the rule claims to be exact for these arguments."""
        parts = [arg if isinstance(arg, (list, tuple)) else [arg] for arg in self.sample.args]
        random = [i for i, part in enumerate(parts) if any(isinstance(one, Random) for one in part)]
        return self.rule.is_exact(random, self.sample.args)

    def moments(self, values: Sequence[Gaussian], law: Law = PLAIN) -> list[Gaussian]:
        """What the rule gives."""
        args = self.sample.filled(values)
        result = self.rule.apply(Context(law, 0 if self.sample.rows else None), *args, **self.sample.options)
        return [one for one in (result if isinstance(result, (list, tuple)) else [result]) if isinstance(one, Gaussian)]

    def run(self, values: Sequence[Tensor]) -> list[Tensor]:
        """What the operation gives: tensors of floating numbers, indices left out."""
        return [one for one in self.call(values) if one.is_floating_point()]

    def call(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Every tensor that the operation gives."""
        result = self.op(*self.sample.filled(values), **self.sample.options)
        return [one for one in (result if isinstance(result, (list, tuple)) else [result]) if isinstance(one, Tensor)]

    def draw(self, variances: Sequence[float], *, seed: int = 0) -> list[Gaussian]:
        """Random values; every element has its own variance, half of it explained by the shared factors.

        Each round through the variances takes nine tenths of the one before, so that no two rows are alike.
        """
        g = torch.Generator().manual_seed(seed)
        values = []
        for place in self.sample.places:
            mean = place.means(g)
            size = mean.numel()
            rounds = torch.arange(size) // len(variances)
            var = torch.tensor(list(variances), dtype=torch.float64).repeat(size)[:size] * 0.9**rounds
            var = var.reshape(mean.shape)
            loadings = torch.randn(FACTORS, *mean.shape, generator=g, dtype=torch.float64)
            loadings = loadings * (0.5 * var / loadings.square().sum(0)).sqrt()
            values.append(Gaussian(mean, loadings, 0.5 * var))
        return values


def parts(value: Gaussian) -> tuple[Tensor, ...]:
    """Mean, factors where there are some, rest."""
    return (value.mean, value.rest) if value.factors is None else (value.mean, value.factors, value.rest)


def loadings(value: Gaussian) -> Tensor:
    """Factors of a value that has some, (R, *s)."""
    assert value.factors is not None
    return value.factors
