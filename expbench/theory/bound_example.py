"""Example for the bound of Theorem 3: a Monte-Carlo lower bound of the complexity, and the true gap of a trained layer.

A comparison with these two shows how loose the bound is. The bound is in `bound.py` (arXiv 2502.02209).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from expbench.console.formatting import aligned, number
from expbench.data.rng import CounterRNG, fold
from expbench.errors import BadInput
from expbench.theory.bound import (
    DELTA,
    QUANTILES,
    Classifier,
    Limits,
    complexity,
    inputs_of,
    k_hat,
    margin_error,
    margins,
    norms_of,
    paper_bound,
    rigorous_bound,
)

_LARGEST = {"L": 256, "D": 16, "N": 64, "classes": 64, "samples": 1 << 16, "steps": 100_000}
_MOST_STATES = 1 << 24  # limit of samples x L x D x N, because training keeps several such tensors in memory
_TEST_SIZE = 4096
_ASCENT_ON = 128  # samples for the Monte-Carlo bound; its cost grows with their number


class LowerBound(NamedTuple):
    """Monte-Carlo lower bound of R_X: the largest value found, averaged over draws of xi, and its standard error."""

    mean: float
    standard_error: float


def rademacher_lower(
    limits: Limits, x: Tensor, *, classes: int, seed: int, rng: int = 16, restarts: int = 8, steps: int = 20
) -> LowerBound:
    """Return a Monte-Carlo lower bound of R_X for the class with these limits, on inputs x (m, L, D).

    W, S_B and S_C enter linearly, so for each of `rng` xi their optimum is known: all weight is on one product. The search
    for A_dn and S_Delta,d of that channel takes `steps` projected ascent steps from each of `restarts` random points. Every
    visited point is in the class, so the largest value is a lower bound of the supremum. Raise `BadInput` if the class is
    empty.
    """
    x = x.detach().double()
    m, _, D = x.shape
    source = CounterRNG(fold("rademacher", seed))
    xi = torch.where(source.coins(rng, m, classes), 1.0, -1.0).double()
    augmented = torch.cat([x, torch.ones_like(x[..., :1])], -1)
    read = torch.einsum("tic,ia->tica", xi, x[:, -1])
    squares = torch.einsum("ijb,ijd->ijbd", x, x)

    def value(a: Tensor, s: Tensor) -> Tensor:
        """Return the objective (draws, restarts) at a = |A_dn| (draws, restarts) and s (draws, restarts, D+1)."""
        delta = F.softplus(torch.einsum("ije,tre->trij", augmented, s))
        after = delta.sum(-1, keepdim=True) - delta.cumsum(-1)
        state = torch.einsum("trij,ijbd->tribd", torch.exp(-a[..., None, None] * after), squares)
        return torch.einsum("tica,tribd->trcabd", read, state).abs().flatten(2).amax(-1)

    a = limits.rho_A * source.uniform(rng, restarts)
    direction = F.normalize(source.normal(rng, restarts, D + 1), dim=-1)
    s = limits.rho_D * source.uniform(rng, restarts, 1) * direction
    best = torch.zeros(rng, dtype=torch.float64)
    for step in range(steps + 1):
        a, s = (t.detach().requires_grad_() for t in _into_class(a.detach(), s.detach(), limits))
        found = value(a, s)
        best = torch.maximum(best, found.detach().amax(1))
        slope_a, slope_s = torch.autograd.grad(found.sum(), (a, s))
        rate = 0.5 / (1 + step)
        a = a + rate * limits.rho_A * slope_a.sign()
        s = s + rate * limits.rho_D * F.normalize(slope_s, dim=-1)
    of_each = limits.rho_W * limits.rho_BC / m * best
    return LowerBound(float(of_each.mean()), float(of_each.std()) / math.sqrt(rng) if rng > 1 else math.nan)


def _into_class(a: Tensor, s: Tensor, limits: Limits) -> tuple[Tensor, Tensor]:
    """Move a and s into the class: |s| <= rho_D, a <= rho_A, a softplus(b - |S|) >= log 1/K.

    The result need not be the nearest point. b - |S| is concave in s and has its maximum rho_D where s is all bias, so
    moving s towards that point eventually reaches the class. Raise `BadInput` if the class is empty.
    """
    s = s * (limits.rho_D / s.norm(dim=-1, keepdim=True).clamp(min=1e-300)).clamp(max=1)
    required = -limits.log_K / limits.rho_A  # minimum of softplus at the largest a
    least = -math.inf if required <= 0 else required + math.log(-math.expm1(-required))  # inverse of softplus
    if not least <= limits.rho_D * (1 + 1e-12):
        raise BadInput(f"no layer has max|A| <= {number(limits.rho_A)}, |S_Delta,d| <= {number(limits.rho_D)} and this K")
    room = s[..., -1:] - s[..., :-1].norm(dim=-1, keepdim=True)
    share = ((least - room) / (limits.rho_D - room).clamp(min=1e-300)).clamp(0, 1)
    bias_only = torch.zeros_like(s)
    bias_only[..., -1] = limits.rho_D
    s = (1 - share) * s + share * bias_only
    room = s[..., -1] - s[..., :-1].norm(dim=-1)
    lowest = (-limits.log_K / F.softplus(room)).clamp(max=limits.rho_A)
    return torch.maximum(a, lowest).clamp(max=limits.rho_A), s


def problem(rng: CounterRNG, size: int, *, L: int, D: int, classes: int) -> tuple[Tensor, Tensor]:
    """Draw sequences x (size, L, D) of bits and labels (size,): the length of the final run of 1s, at most classes - 1.

    Two fixed unit vectors encode the bits. Each sequence has its own share of 1s, uniform in [0, 1), so that long runs are
    not rare.
    """
    bits = rng.uniform(size, L) < rng.uniform(size, 1)
    labels = bits.flip(1).long().cumprod(1).sum(1).clamp(max=classes - 1)
    fixed = CounterRNG(fold("unit vectors", D))
    one = F.normalize(fixed.normal(D), dim=0)
    other = fixed.normal(D)
    zero = F.normalize(other - (other @ one) * one, dim=0) if D > 1 else -one
    return torch.where(bits[..., None], one, zero), labels


def fit(x: Tensor, labels: Tensor, *, N: int, classes: int, seed: int, steps: int) -> Classifier:
    """Train a classifier by full-batch Adam (learning rate 0.03) on the cross-entropy of x (m, L, D) and labels (m,)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier(x.shape[-1], N=N, classes=classes)
    optimizer = torch.optim.Adam([p for p in classifier.parameters() if p.requires_grad], lr=0.03)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(classifier(x), labels).backward()
        optimizer.step()
    return classifier


def demonstrate_bound(*, L: int, D: int, N: int, classes: int, samples: int, seed: int, steps: int) -> str:
    """Train a bare layer on `samples` sequences of `problem` and return a report of both bounds and the true error.

    Raise `BadInput` for sizes out of range, and if the bound does not hold for the trained layer.
    """
    given = {"L": L, "D": D, "N": N, "classes": classes, "samples": samples, "steps": steps}
    for name, value in given.items():
        least = 0 if name == "steps" else 2 if name in ("L", "classes", "samples") else 1
        largest = min(_LARGEST[name], L + 1) if name == "classes" else _LARGEST[name]
        if not least <= value <= largest:
            raise BadInput(f"--{name}: {value} is not between {least} and {largest}")
    if (states := samples * L * D * N) > _MOST_STATES:
        raise BadInput(f"--samples: samples x L x D x N = {states} is more than {_MOST_STATES}")
    x, labels = problem(CounterRNG(fold("bound train", seed)), samples, L=L, D=D, classes=classes)
    x_test, labels_test = problem(CounterRNG(fold("bound test", seed)), _TEST_SIZE, L=L, D=D, classes=classes)
    classifier = fit(x, labels, N=N, classes=classes, seed=seed, steps=steps)
    with torch.no_grad():
        train = margins(classifier(x), labels)
        test_error = margin_error(margins(classifier(x_test), labels_test))
    norms, inputs = norms_of(classifier.layer, classifier.head.weight), inputs_of(x)
    own, part = norms.limits, x[:_ASCENT_ON]
    lower = rademacher_lower(own, part, classes=classes, seed=seed)
    upper = complexity(own, inputs_of(part), D=D, N=N, classes=classes)
    train_error = margin_error(train)
    facts = [
        ["quantity", "value", "meaning"],
        ["|W|_F", number(norms.W_F), "classifier"],
        ["sum|W|", number(own.rho_W), "rho_W"],
        ["|S_B|_F", number(norms.S_B_F), ""],
        ["|S_C|_F", number(norms.S_C_F), ""],
        ["rho_BC", number(own.rho_BC), "sum_n |S_B,n|_1 |S_C,n|_1"],
        ["max|A|", number(own.rho_A), "rho_A"],
        ["max|S_Delta,d|", number(own.rho_D), "rho_D; the bias of Delta is the weight of a constant coordinate"],
        ["Gamma", number(norms.Gamma), "|W|_F |S_B|_F |S_C|_F max|A| max|S_Delta,d|"],
        ["K-hat", f"{k_hat(classifier.layer, x):.4f}", "largest |Abar| on the training inputs"],
        ["K", f"{norms.K:.4f}", "upper limit of |Abar| over |x| <= 1"],
        ["K/(1-K)^2", number(norms.K / math.expm1(own.log_K) ** 2), "the factor of both bounds"],
        [
            "R_X, found",
            number(lower.mean),
            f"Monte-Carlo lower bound, {len(part)} samples; +- {number(lower.standard_error)}",
        ],
        ["R_X, bound", number(upper), f"analytic upper bound, the same {len(part)} samples"],
        ["train error", number(train_error), ""],
        ["test error", number(test_error), f"{_TEST_SIZE} fresh sequences"],
        ["gap", number(test_error - train_error), "test error - train error"],
    ]
    lines = [["bound", "quantile", "gamma", "err_S^gamma", "complexity", "confidence", "total", "reading"]]
    for quantile in QUANTILES:
        gamma = float(train.quantile(quantile))
        for name, bound in (("rigorous", rigorous_bound), ("paper (reconstruction)", paper_bound)):
            if not gamma > 0:
                lines.append([name, number(quantile), number(gamma), *["-"] * 4, "no positive margin"])
                continue
            found = bound(norms, inputs, gamma=gamma, margin_error=margin_error(train, gamma))
            terms = [gamma, found.margin_error, found.complexity, found.confidence, found.total]
            lines.append([name, number(quantile), *map(number, terms), found.reading])
    return (
        f"one bare layer of Eq. 6 and a linear classifier, L={L} D={D} N={N}, {samples} samples of capped count in row "
        f"({classes} classes), bits as fixed unit vectors:\n{aligned(facts)}\n\n"
        f"upper bounds on the error of fresh sequences, with probability {1 - DELTA:g}"
        " (gamma: a quantile of the training margins):\n"
        f"{aligned(lines)}"
    )
