"""Generalisation bound of a single bare layer of Eq. 6 with a linear classifier: Theorem 3 of arXiv 2502.02209.

The function class is f(x)_c = W_c . y_L. Here y is the output of S6 with Bbar = B (`S6BbarB`: softplus and exp; no skip, no
bias of B and C), and the inputs x_t are fixed with |x_t| <= 1. The class has no trained embedding before the layer, so the
bound does not hold for networks with one. The bias of Delta counts as the weight of an extra input coordinate that is always
1 and that only S_Delta uses; a layer whose bias is held at zero is in the same class. For independent signs xi, m samples
and C classes,
    R_X(F) = (1/m) E_xi sup_{f in F} |sum_{i,c} xi_ic f(x^(i))_c|.

`paper_bound` is a RECONSTRUCTION of the theorem: the text does not determine the norms in Gamma, the argument of the
logarithm, and the role of C. `rigorous_bound` is a new derivation:

    y_L is a sum over j of products of x_L, x_j, x_j and h = exp(A sum_{k>j} softplus(S_Delta x_k)). Hoelder's inequality
    factors out rho_W and rho_BC and leaves the maximum of C D^3 signed sums. With r = L - j the exponent is at most
    r log K <= 0, hence h = K^r + K^r (e^v - 1) with v <= 0. The constants sum to the term with 1/(1-K). Both e^v - 1 and
    softplus - log 2 are contractions that vanish at 0, so the inequality of Ledoux and Talagrand (1991) for convex
    increasing functions applies to them. We apply it to the exponential, so the maximum costs only the square root of a
    logarithm (Golowich et al. 2018). Finally, sum_r r K^r <= K/(1-K)^2; the factor 2 before it separates the varying part
    of v from the constant part. Without the shifts by r log K and log 2, exp and softplus do not vanish at 0, and the
    inequality does not apply.

Both bounds are far above 1 when K is near 1, as at Mamba's initialisation. The reports call such a bound vacuous.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expbench.console.formatting import number
from expbench.errors import BadInput
from expbench.models.s6_bbar_b import S6BbarB

QUANTILES = (0.1, 0.25, 0.5, 0.75)  # quantiles of the training margins that serve as gamma
DELTA = 0.05  # the bounds hold with probability 1 - DELTA over the training sample
LIPSCHITZ = 4.0  # 2 (symmetrisation) sqrt 2 (Maurer 2016) sqrt 2 (the margin f_y - max_j f_j, in the Euclidean norm)
_GRID = 4  # norms are rounded up to multiples of 1/_GRID, so that the union bound is over countably many classes
_TOLERANCE = 1e-6  # allows for rounding in |x_t| = 1


class Classifier(nn.Module):
    """Bare layer of width D with N states and a linear read-out of y_L without bias: x (B, L, D) -> (B, C), float64.

    The biases of B and C are fixed at zero. The bias of Delta is trained and starts at zero, so Abar starts near 2^A instead
    of just below 1.
    """

    def __init__(self, D: int, *, N: int, classes: int) -> None:
        super().__init__()
        self.layer = S6BbarB(D, N=N, layout="full_bias", skip=False)
        self.head = nn.Linear(D, classes, bias=False)
        for bias in (self.layer.to_b.bias, self.layer.to_c.bias, self.layer.to_delta.bias):
            nn.init.zeros_(bias)
        self.layer.to_b.bias.requires_grad_(False)
        self.layer.to_c.bias.requires_grad_(False)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.layer(x)[:, -1])
        return outputs


class Limits(NamedTuple):
    """Norm limits that define the function class; every layer belongs to the class that its own norms define.

    rho_W: sum |W_cd|. rho_BC: sum_n |S_B,n|_1 |S_C,n|_1. rho_A: max |A_dn|. rho_D: max_d |S_Delta,d|_2, with the bias as the
    last entry of S_Delta,d. log_K: log of K, where |Abar| <= K for every |x| <= 1.
    """

    rho_W: float
    rho_BC: float
    rho_A: float
    rho_D: float
    log_K: float


class Norms(NamedTuple):
    """Norms of one layer and its classifier.

    W_F, S_B_F, S_C_F: Frobenius norms of W (C, D), S_B and S_C (N, D). limits: limits of the layer's function class.
    D, N, classes: sizes of the layer and the classifier.
    """

    W_F: float
    S_B_F: float
    S_C_F: float
    limits: Limits
    D: int
    N: int
    classes: int

    @property
    def Gamma(self) -> float:
        """Product of the norms: |W|_F |S_B|_F |S_C|_F max|A| max_d|S_Delta,d|_2."""
        return self.W_F * self.S_B_F * self.S_C_F * self.limits.rho_A * self.limits.rho_D

    @property
    def K(self) -> float:
        """Upper limit of |Abar| over all |x| <= 1: max_{d,n} exp(-|A_dn| softplus(b_d - |S_Delta,d|_2)).

        It always exists and is below 1 because A < 0 < softplus; rounding may make it 1.
        """
        return math.exp(self.limits.log_K)


class Inputs(NamedTuple):
    """Summary of m samples of length L for the bounds: energy is max_t sum_i |x_t^(i)|_2^2, at most m."""

    m: int
    L: int
    energy: float


class Bound(NamedTuple):
    """Terms of the bound err_P <= margin_error + complexity + confidence for the margin gamma.

    margin_error: err_S^gamma, the share of the sample whose margin is at most gamma. complexity: the term of R_X.
    confidence: the term of the random sample and of the union bound over classes.
    """

    margin: float
    margin_error: float
    complexity: float
    confidence: float

    @property
    def total(self) -> float:
        """Sum of the three terms; it may exceed 1."""
        return self.margin_error + self.complexity + self.confidence

    @property
    def vacuous(self) -> bool:
        """True if the bound is not below 1, so that it excludes no error."""
        return not self.total < 1

    @property
    def reading(self) -> str:
        """``vacuous`` or ``below 1``."""
        return "vacuous" if self.vacuous else "below 1"


def eligible(layer: nn.Module) -> str | None:
    """Return the reason why the bound does not hold for a layer; None if it holds."""
    if type(layer) is not S6BbarB:
        return f"{type(layer).__name__} is not Eq. 6 (S6BbarB is)"
    if layer.skip is not None:
        return "a skip, the term D x_t"
    if layer.full and (_has_bias(layer.to_b) or _has_bias(layer.to_c)):
        return "a bias of B or C that is not fixed at zero"
    K = math.exp(_log_K(layer))
    return None if K < 1 else f"K = {number(K)} is not below 1"


def _has_bias(linear: nn.Linear) -> bool:
    bias: Tensor | None = linear.bias
    return bias is not None and (bias.requires_grad or bool(bias.detach().any()))


def _matrices(layer: S6BbarB) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return S_B and S_C (N, D), S_Delta (D, D) and its bias (D,), in float64."""
    bias = layer.to_delta.bias.detach().double()
    if layer.full:
        weights = [linear.weight.detach().double() for linear in (layer.to_b, layer.to_c, layer.to_delta)]
        return weights[0], weights[1], weights[2], bias
    low, S_B, S_C = layer.to_all.weight.detach().double().split([layer.rank, layer.N, layer.N])
    return S_B, S_C, layer.to_delta.weight.detach().double() @ low, bias


def _log_K(layer: S6BbarB) -> float:
    _, _, S_Delta, bias = _matrices(layer)
    least = F.softplus(bias - S_Delta.norm(dim=1))  # minimum of softplus(S_Delta,d . x + b_d) over |x| <= 1
    return -float((layer.A_log.detach().double().exp() * least[:, None]).min())


def norms_of(layer: S6BbarB, W: Tensor) -> Norms:
    """Return the norms of a layer with the classifier W (C, D); raise `BadInput` if the bound does not hold for it."""
    if (reason := eligible(layer)) is not None:
        raise BadInput(f"the bound does not hold: {reason}")
    S_B, S_C, S_Delta, bias = _matrices(layer)
    W = W.detach().double()
    limits = Limits(
        rho_W=float(W.abs().sum()),
        rho_BC=float((S_B.abs().sum(1) * S_C.abs().sum(1)).sum()),
        rho_A=float(layer.A_log.detach().double().exp().max()),
        rho_D=float(torch.cat([S_Delta, bias[:, None]], 1).norm(dim=1).max()),
        log_K=_log_K(layer),
    )
    return Norms(float(W.norm()), float(S_B.norm()), float(S_C.norm()), limits, W.shape[1], layer.N, W.shape[0])


def inputs_of(x: Tensor) -> Inputs:
    """Summarise inputs x (m, L, D) for the bounds; raise `BadInput` if any |x_t| exceeds 1."""
    squares = x.detach().double().square().sum(-1)
    longest = float(squares.max().sqrt())
    if not longest <= 1 + _TOLERANCE:
        raise BadInput(f"the bound needs inputs with |x_t| <= 1; the largest norm is {number(longest)}")
    return Inputs(x.shape[0], x.shape[1], float(squares.sum(0).max()))


@torch.no_grad()
def k_hat(layer: S6BbarB, x: Tensor) -> float:
    """Return the largest |Abar| on inputs x (m, L, D), from the second step on (the first has no past); 0 if L = 1."""
    abar = layer.discretise(x[:, 1:])[2]
    return float(abar.abs().max()) if abar.numel() else 0.0


@torch.no_grad()
def margins(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the margins f_y - max_{j != y} f_j (m,) of outputs (m, C) for labels y (m,)."""
    right = outputs.gather(1, labels[:, None])
    return (right - outputs.scatter(1, labels[:, None], -math.inf).max(1, keepdim=True).values).squeeze(1)


def margin_error(margin: Tensor, gamma: float = 0.0) -> float:
    """Return err^gamma, the share of margins that are at most gamma; for gamma = 0, the error rate with ties as errors."""
    return float((margin <= gamma).double().mean())


def complexity(limits: Limits, inputs: Inputs, *, D: int, N: int, classes: int) -> float:
    """Return the upper bound on R_X of the class:

    (rho_W rho_BC / m) (sqrt(2 m log(2 C D^3)) / (1-K) + 2 K / (1-K)^2 M (1 + sqrt(2 log(2 C D^3 N (L+1))))), M = max(rho_A
    rho_D sqrt(energy + m), (rho_A log 2 + log(1/K)) sqrt(m)). The m in energy + m is from the constant input 1.
    """
    m, below = inputs.m, -math.expm1(limits.log_K)
    if below <= 0:
        return math.inf
    sums = 2 * classes * D**3
    M = max(
        limits.rho_A * limits.rho_D * math.sqrt(inputs.energy + m),
        (limits.rho_A * math.log(2) - limits.log_K) * math.sqrt(m),
    )
    constant = math.sqrt(2 * m * math.log(sums)) / below
    moving = 2 * math.exp(limits.log_K) / below**2 * M * (1 + math.sqrt(2 * math.log(sums * N * (inputs.L + 1))))
    return limits.rho_W * limits.rho_BC / m * (constant + moving)


def rigorous_bound(norms: Norms, inputs: Inputs, *, gamma: float, margin_error: float, delta: float = DELTA) -> Bound:
    """Return the bound err_P <= err_S^gamma + 4 R_X(F_1) + 3 sqrt(log(2 / delta') / (2m)).

    It holds simultaneously for all weights and all gamma > 0. F_1 is the class of f / gamma, with rho_W rho_BC / gamma,
    rho_A, rho_D and 1 / (1-K) rounded up to quarters j/4. Each of these countably many classes gets the share delta' = delta
    / prod j (j+1). The norms, K and gamma may therefore depend on the data. The factor 4 is `LIPSCHITZ`: a margin changes by
    at most sqrt 2 times the change of f.
    """
    _check(gamma, delta)
    own = norms.limits
    below = -math.expm1(own.log_K)
    if below <= 0:
        return Bound(gamma, margin_error, math.inf, math.inf)
    scales = (own.rho_W * own.rho_BC / gamma, own.rho_A, own.rho_D, 1 / below)
    steps = [max(1, math.ceil(_GRID * scale)) for scale in scales]
    steps[3] = max(steps[3], _GRID + 1)
    product, rho_A, rho_D, inverse = (step / _GRID for step in steps)
    limits = Limits(product, 1.0, rho_A, rho_D, math.log1p(-1 / inverse))
    upper = complexity(limits, inputs, D=norms.D, N=norms.N, classes=norms.classes)
    log_share = math.log(delta) - sum(math.log(step) + math.log(step + 1) for step in steps)
    confidence = 3 * math.sqrt((math.log(2) - log_share) / (2 * inputs.m))
    return Bound(gamma, margin_error, LIPSCHITZ * upper, confidence)


def paper_bound(norms: Norms, inputs: Inputs, *, gamma: float, margin_error: float, delta: float = DELTA) -> Bound:
    """Return a RECONSTRUCTION of the printed Theorem 3, for gamma and K fixed before the data are seen:

    err_P <= err_S^gamma + 2 sqrt 2 (Gamma+1) D^2 / (gamma m) K / (K-1)^2 (1 + sqrt(2 log(4 L^2 D^2 N))) sqrt(energy + m)
    + 3 sqrt(log(2 (Gamma+2)^2 / delta) / (2m)).
    Three points are uncertain: the norms in Gamma, the argument of the logarithm, and whether the bound depends on C. The +1
    and +2 come from the union over the classes Gamma <= j. The printed proof has two gaps: exp and softplus are not 0 at 0,
    and 2 sqrt 2 assumes a margin that is 1-Lipschitz in the Euclidean norm (the constant is sqrt 2). Use `rigorous_bound`
    for a bound to rely on.
    """
    _check(gamma, delta)
    m, below, size = inputs.m, -math.expm1(norms.limits.log_K), norms.Gamma
    confidence = 3 * math.sqrt(math.log(2 * (size + 2) ** 2 / delta) / (2 * m))
    if below <= 0:
        return Bound(gamma, margin_error, math.inf, confidence)
    scale = 2 * math.sqrt(2) * (size + 1) * norms.D**2 / (gamma * m)
    logarithm = 1 + math.sqrt(2 * math.log(4 * inputs.L**2 * norms.D**2 * norms.N))
    upper = scale * norms.K / below**2 * logarithm * math.sqrt(inputs.energy + m)
    return Bound(gamma, margin_error, upper, confidence)


def _check(gamma: float, delta: float) -> None:
    if not gamma > 0:
        raise BadInput(f"gamma={number(gamma)} must be above 0")
    if not 0 < delta < 1:
        raise BadInput(f"delta={number(delta)} must lie between 0 and 1")
