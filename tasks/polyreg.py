"""Polynomial regression: predict a polynomial of the inputs x_1..x_L at the last position.

The degree and the number of variables per term are adjustable, and the least error of a network of bounded degree is known
in closed form. Labels are standardised by exact moments. For ``family=suffix``, L=3 and inputs (.5, 1., .8), the polynomial
is x3 + x2*x3 + x1*x2*x3 = .8 + .8 + .4 = 2.0; the label is this value minus its mean, divided by its standard deviation.
Families (arXiv 2502.02209, Eq. 14-15, has only ``random``):

suffix    sum of the products of the last m inputs, m = 1..degree; needs no positions (default, x in [.5, 1])
product   product of all L inputs, with exponents that sum to the degree; needs no positions if all exponents are 1
sparse    product of `degree` positions, chosen by the instance
distant   product of `degree` positions, evenly spaced from the first to the last
pairwise  sum of products of disjoint pairs, chosen by the instance: degree 2, no advantage of long products expected
random    sum of `terms` monomials, coefficients N(0, 1), exponents 0..`max_exponent`, chosen by the instance
given     the polynomial in `formula`, such as 2*x1^2*x3 - x2*x4
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from expbench.algebra import floors, spans, symmetry
from expbench.algebra.parsing import parse
from expbench.algebra.polynomial import Inputs, Moments, Monomials, Polynomial, Suffix
from expbench.algebra.reach import Reach
from expbench.data.rng import CounterRNG, fold
from expbench.errors import BadInput
from expbench.stats.sampling import is_well_posed
from expbench.task import (
    LONGEST,
    Batch,
    Control,
    LabelFacts,
    Score,
    Task,
    require_at_most,
    require_positive,
    resolve_setting,
)

_WANTED_SAMPLE = 300.0  # effective sample size targeted by the default test size
_WANTED_ERROR = 0.02  # target relative standard error of the variance of test labels
_TEST_TOKENS = 1 << 21  # token limit for that target
_LEAST_TEST_SIZE, _LARGEST_TEST_SIZE = 1 << 10, 1 << 16
_MOST_FEATURES = {1: 1100, 2: 600, 3: 600}  # limit on features of a regression baseline, by its degree
_TERMS, _MOST_TERMS = 5, 12  # for family random, since the exact kurtosis sums over products of four terms
_HIGHEST_EXPONENT = 64
_FITTED_AT_ONCE = 2048  # sequences per batch to fit the baselines


@dataclass(frozen=True, kw_only=True)
class PolyReg(Task):
    """Settings in addition to L and instance:

    family: see above. degree: any that the family admits (default: L for suffix and product, 4 for sparse, 2 for
    distant). inputs: ``unit`` is uniform on [lo, hi]; ``signs`` is -1 with probability eps, else +1. terms: number of
    monomials of random (None: 5), number of pairs of pairwise (None: L // 2). label_var: variance of the labels (the
    paper's Table 2 suggests 20), by which the normalised error is divided. formula: the polynomial of family given, at most
    12 monomials.
    """

    L: int = 16
    family: Literal["suffix", "product", "sparse", "distant", "pairwise", "random", "given"] = "suffix"
    degree: int | None = None
    inputs: Literal["unit", "signs"] = "unit"
    lo: float | None = None
    hi: float = 1.0
    eps: float = 0.1
    terms: int | None = None
    max_exponent: int = 2
    label_var: float = 1.0
    formula: str | None = None

    version = 2  # raised when a setting was added, which changes the key of the random numbers
    primary_metric = "nmse"
    higher_is_better = False
    success_threshold = 0.01

    def __post_init__(self) -> None:
        require_positive(self, "L", "label_var", "max_exponent")
        for name, most in (("L", LONGEST), ("max_exponent", _HIGHEST_EXPONENT), ("label_var", 1e12), ("hi", 1e3)):
            require_at_most(self, name, most)
        if self.lo is None:
            resolve_setting(self, "lo", 0.5 if self.family == "suffix" and self.inputs == "unit" else 0.0)
        if not 1e-9 <= self.eps <= 1 - 1e-9:
            raise ValueError(f"eps={self.eps} must lie between 0 and 1 (by at least 1e-9)")
        if self.label_var < 1e-12:
            raise ValueError(f"label_var={self.label_var} is too small, the least is 1e-12")
        if self.lo is not None and not -1e3 <= self.lo <= self.hi - 1e-9:
            raise ValueError(f"lo={self.lo} must be at least -1000, and below hi={self.hi} by at least 1e-9")
        self._check_terms()
        self._check_formula()
        self._resolve_degree()
        if not (self.moments.variance > 1e-300 and math.isfinite(self.moments.kurtosis)):
            raise ValueError(
                f"the labels of family {self.family} at L={self.L} with inputs={self.inputs} have a variance that "
                f"underflows; use inputs=signs, a smaller L or another lo"
            )
        if self.test_size is None:
            resolve_setting(self, "test_size", self._fitting_test_size())
        super().__post_init__()

    def _fitting_test_size(self) -> int:
        """Return a power of two that gives the target effective sample size and, within the token limit, a precise error."""
        if self.family == "random":  # equal for all instances, although they differ in kurtosis
            return _LARGEST_TEST_SIZE
        kurtosis = self.moments.kurtosis
        precise = min((kurtosis - 1) / _WANTED_ERROR**2, _TEST_TOKENS / self.L)
        wanted = 1 << math.ceil(math.log2(max(_WANTED_SAMPLE * kurtosis, precise, 1)))
        return min(max(wanted, _LEAST_TEST_SIZE), _LARGEST_TEST_SIZE)

    def _check_terms(self) -> None:
        if self.family == "pairwise" and self.L < 2:
            raise ValueError("family pairwise needs L of 2 or more")
        if self.family not in ("random", "pairwise") or self.terms is None:
            return
        most = _MOST_TERMS if self.family == "random" else self.L // 2
        if not 1 <= self.terms <= most:
            raise ValueError(f"terms={self.terms}: family {self.family} at L={self.L} can have 1 to {most}")

    def _check_formula(self) -> None:
        if (self.family == "given") != (self.formula is not None):
            raise ValueError("family given needs a formula, e.g. formula='2*x1^2*x3 - x2*x4'; other families take none")
        if self.formula is not None:
            try:
                terms = len(parse(self.formula, self.L).coefficients)
            except BadInput as error:
                raise ValueError(f"formula: {error}") from error
            if not 1 <= terms <= _MOST_TERMS:
                raise ValueError(f"formula={self.formula!r} has {terms} monomials, not 1 to {_MOST_TERMS}")

    def _resolve_degree(self) -> None:
        L = self.L
        if self.formula is not None:
            degree = self.polynomial.degree
            if self.degree not in (None, degree):
                raise ValueError(f"degree={self.degree}: the formula has degree {degree}")
            resolve_setting(self, "degree", degree)
            return
        if self.family == "random" and self.inputs == "signs" and self.max_exponent != 1:
            raise ValueError("family random with inputs=signs needs max_exponent=1, since x^2 = 1 there")
        defaults = {"suffix": L, "product": L, "sparse": min(4, L), "distant": min(2, L), "pairwise": 2, "random": None}
        if self.degree is None:
            resolve_setting(self, "degree", defaults[self.family])
        # for signs x^2 = 1, so degrees above L are meaningless
        top = L if self.inputs == "signs" else _HIGHEST_EXPONENT * L
        least, most = {
            "suffix": (1, L),
            "product": (L, top),
            "sparse": (1, L),
            "distant": (min(2, L), L),
            "pairwise": (2, 2),
            "random": (1, self.max_exponent * L),
        }[self.family]
        if self.degree is not None and not least <= self.degree <= most:
            choices = f"{least}" if least == most else f"{least} to {most}"
            raise ValueError(
                f"degree={self.degree}: family {self.family} at L={L} with inputs={self.inputs} can have {choices}"
            )

    @cached_property
    def distribution(self) -> Inputs:
        """Distribution of each input."""
        return Inputs(self.inputs, self.lo or 0.0, self.hi, self.eps)

    @cached_property
    def polynomial(self) -> Polynomial:
        """Polynomial of this instance; it does not depend on the distribution of the inputs."""
        family = f"polyreg {self.family} {self.L} {self.degree} {self.terms} {self.max_exponent}"
        if self.formula is not None:
            parsed = parse(self.formula, self.L)
            return Monomials(parsed.coefficients, parsed.exponents)  # a constant has no effect on standardised labels
        rng = CounterRNG(fold(family, self.instance))
        degree = self.degree or 0
        if self.family == "suffix":
            return Suffix(self.L, degree)
        if self.family == "product":
            exponents = dict.fromkeys(range(self.L), 1)
            for variable in rng.integers(degree - self.L, n=self.L).tolist():
                exponents[variable] += 1
            return Monomials([1.0], [exponents])
        if self.family == "sparse":
            return Monomials([1.0], [dict.fromkeys(rng.subset(self.L, degree), 1)])
        if self.family == "distant":
            gaps = max(1, degree - 1)
            return Monomials([1.0], [dict.fromkeys((round(i * (self.L - 1) / gaps) for i in range(degree)), 1)])
        if self.family == "pairwise":
            order = rng.permutation(self.L)
            pairs = [sorted(order[2 * i : 2 * i + 2]) for i in range(self.terms or self.L // 2)]
            return Monomials([1.0] * len(pairs), [dict.fromkeys(pair, 1) for pair in pairs])
        return _random_polynomial(rng, self.L, self.terms or _TERMS, self.max_exponent, self.degree)

    @cached_property
    def moments(self) -> Moments:
        """Exact moments of the raw label."""
        return self.polynomial.moments(self.distribution)

    def standardise(self, y: Tensor) -> Tensor:
        """Standardise raw values y of the polynomial to labels (same shape) of mean 0 and variance `label_var`."""
        return (y - self.moments.mean) * math.sqrt(self.label_var / self.moments.variance)

    def batch(self, rng: CounterRNG, size: int) -> Batch:
        x = self.distribution.draw(rng, size, self.L)
        return Batch(x.unsqueeze(-1), self.standardise(self.polynomial.evaluate(x)).unsqueeze(-1))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean squared error."""
        return ((outputs - targets) ** 2).mean()

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        outputs, targets = outputs.double(), targets.double()
        return {
            "count": torch.tensor(targets.numel(), device=targets.device),
            "squared_error": ((outputs - targets) ** 2).sum(),
            "squared_error_squared": ((outputs - targets) ** 4).sum(),
            "label": targets.sum(),
            "label_squared": (targets**2).sum(),
        }

    def summary(self, totals: Mapping[str, Tensor]) -> list[Score]:
        """Return nmse, nmse_standard_error, mse and r2.

        nmse: mse / exact variance of the label. nmse_standard_error: its sampling error over the test set, which the spread
        over seeds does not show, since all seeds share the test set. r2: 1 - mse / variance of the sample.
        """
        n, error, label, squared = (float(totals[k]) for k in ("count", "squared_error", "label", "label_squared"))
        mse, spread = error / n, squared / n - (label / n) ** 2
        r2 = 1 - mse / spread if spread > 0 else math.nan
        open_to = math.sqrt(max(0.0, float(totals["squared_error_squared"]) / n - mse**2) / n)
        return [
            Score("nmse", mse / self.label_var),
            Score("nmse_standard_error", open_to / self.label_var),
            Score("mse", mse),
            Score("r2", r2),
        ]

    def chance(self) -> float:
        return 1.0

    def controls(self) -> Iterator[Control]:
        """Yield the mean, least squares on all monomials up to degree 1, 2 and 3 unless too many, and the generator."""
        yield Control("mean", "baseline", lambda x: torch.zeros_like(x[:, 0]))
        for degree, name in enumerate(("linear", "quadratic", "cubic"), start=1):
            if math.comb(self.L + degree, degree) <= _MOST_FEATURES[degree]:
                yield Control(f"{name}-regression", "baseline", self._regression(degree))
        recompute = self.polynomial.recompute
        yield Control("generator", "positive", lambda x: self.standardise(recompute(x[..., 0])).unsqueeze(-1))

    def _regression(self, degree: int) -> Callable[[Tensor], Tensor]:
        def features(x: Tensor) -> Tensor:
            columns = [torch.ones_like(x[:, 0, :])]
            for d in range(1, degree + 1):
                choices = torch.tensor(list(itertools.combinations_with_replacement(range(self.L), d)))
                columns.append(x[..., 0][:, choices].prod(-1))
            return torch.cat(columns, 1)

        count = math.comb(self.L + degree, degree)
        gram, moment = torch.zeros(count, count, dtype=torch.float64), torch.zeros(count, 1, dtype=torch.float64)
        for _, (x, y) in zip(range(0, max(8192, 20 * count), _FITTED_AT_ONCE), self._fitting_batches(), strict=False):
            f = features(x)
            gram.addmm_(f.mT, f)
            moment.addmm_(f.mT, y)
        # Repeated columns (x^2 = 1 on signs) make the system singular; the minimum-norm solution is equally good.
        weights = torch.linalg.pinv(gram, hermitian=True, rtol=1e-12) @ moment
        return lambda inputs: features(inputs) @ weights

    def _fitting_batches(self) -> Iterator[Batch]:
        """Generate training batches under a seed that no run uses."""
        return (self.train_batch(_FITTED_AT_ONCE, seed=2**63, step=step) for step in itertools.count())

    def facts(self) -> LabelFacts:
        y = torch.cat([batch.targets for batch in self.split("test")]).flatten()
        effective = float((y**2).sum() ** 2 / (y**4).sum())
        well_posed = bool(is_well_posed(self.moments.kurtosis, effective, len(y)))
        return LabelFacts(self.moments.kurtosis, self.moments.interaction_order, effective, well_posed)

    def floor(self, reach: Reach) -> floors.Floor:
        return floors.floor(self.polynomial, self.distribution, self.L, reach)

    def span_floor(self, codes: spans.Codes, *, largest: float = math.inf) -> float:
        return spans.span_floor(self.polynomial, self.distribution, self.L, codes, largest=largest)

    def symmetry_floor(self) -> float:
        return symmetry.symmetry_floor(self.polynomial, self.distribution, self.L)

    def describe(self) -> str:
        return f"y = {self.polynomial.text()}, x {self.describe_inputs()}, standardised"

    def describe_inputs(self) -> str:
        """Return the distribution of each input in words."""
        if self.inputs == "signs":
            return f"= -1 with probability {self.eps:g}, else +1"
        return f"uniform on [{self.lo:g}, {self.hi:g}]"


def _random_polynomial(rng: CounterRNG, L: int, terms: int, most: int, degree: int | None) -> Monomials:
    """Draw a polynomial as in Eq. 14 of arXiv 2502.02209 (reconstructed), of a degree above L if possible.

    If a degree is given, random unit powers are removed from terms above it, or added to the highest term if all are below.
    """
    coefficients = rng.normal(terms).tolist()
    while True:
        e = rng.integers(terms, L, n=most + 1)
        if degree is not None or int(e.sum(1).max()) > (0 if most == 1 else L):
            break
    if degree is not None:
        order = [rng.permutation(L * most) for _ in range(terms)]
        highest = int(e.sum(1).argmax())
        for term in range(terms):
            for slot in itertools.cycle(order[term]):
                excess = int(e[term].sum()) - degree
                if excess == 0 or (excess < 0 and term != highest):
                    break
                variable = slot % L
                if excess > 0:
                    e[term, variable] -= int(e[term, variable] > 0)
                else:
                    e[term, variable] += int(e[term, variable] < most)
    exponents = [{i: power for i, power in enumerate(row) if power} for row in e.tolist()]
    # a constant has no effect on standardised labels
    kept = [(c, powers) for c, powers in zip(coefficients, exponents, strict=True) if powers]
    return Monomials([c for c, _ in kept], [powers for _, powers in kept])
