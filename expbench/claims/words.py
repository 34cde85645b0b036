"""Words of verdicts, in the order in which a summary counts them."""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """Verdict on a matched pair of a claim.

    supported      the distributions differ, and the difference has the claimed direction
    contradicted   the distributions differ, and the difference has the opposite direction
    not supported  no relevant difference: its interval lies within the margin
    below the margin    as supported, but the difference is smaller than the margin
    ceiling        both sides are near the best possible value, so that the task cannot tell them apart
    confounded     the sides differ in settings that the claim is not about
    undecided      the runs do not decide
    undecided on means  the same, for a statement about means
    """

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    NOT_SUPPORTED = "not supported"
    BELOW_MARGIN = "below the margin"
    CEILING = "ceiling"
    CONFOUNDED = "confounded"
    UNDECIDED = "undecided"
    UNDECIDED_ON_MEANS = "undecided on means"


OPEN = frozenset(
    {Verdict.UNDECIDED, Verdict.UNDECIDED_ON_MEANS, Verdict.CONFOUNDED}
)  # these say nothing on the claim itself
