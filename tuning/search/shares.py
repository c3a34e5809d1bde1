"""Several studies on one cluster: how many slots each one may use, by a rule that every driver evaluates for itself.

Higher priorities are served first; what they cannot use goes to the next. Within a priority the slots are dealt one by
one to the study that has the smallest part of the cluster. A remainder stays where it is, else it goes to the study that
came first, so that shares do not move while nothing else does. Trials of two studies may need different resources; so
parts of the cluster are compared, and a slot of a study is one part of as many as the cluster could give to it alone.
"""

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a study asks of the cluster.

    study: its id. name: what people call it. priority: higher goes first. slots: how many of its trials the cluster
    could run at once, if it were alone. demand: how many it could use now, those that run included. share: the slots
    that it was given so far. arrival: its place in the order in which studies came.
    """

    study: str
    name: str
    priority: int
    slots: int
    demand: int
    share: int
    arrival: int


def shares(claims: Sequence[Claim]) -> dict[str, int]:
    """The slots of each study, by its id; the same whatever the order of the claims."""
    given = dict.fromkeys((claim.study for claim in claims), 0)
    whole = math.lcm(*(claim.slots for claim in claims if claim.slots))
    free = whole

    def place(claim: Claim) -> tuple[int, int, bool, int, str, Claim]:
        """Who is served next comes first."""
        had, cost = given[claim.study], whole // claim.slots
        return (-claim.priority, had * cost, claim.share <= had, claim.arrival, claim.study, claim)

    queue = [place(claim) for claim in claims if claim.slots and claim.demand]
    heapq.heapify(queue)
    while queue:
        claim = heapq.heappop(queue)[-1]
        cost = whole // claim.slots
        if cost > free:
            continue  # a study of smaller trials may still find room
        free -= cost
        given[claim.study] += 1
        if given[claim.study] < claim.demand:
            heapq.heappush(queue, place(claim))
    return given


def explain(claims: Sequence[Claim], given: Mapping[str, int], study: str) -> str:
    """Who keeps a study from using more slots, and why; empty: nobody does."""
    own = next(claim for claim in claims if claim.study == study)
    wanted = min(own.demand, own.slots)
    using = [claim for claim in claims if claim.study != study and given[claim.study]]
    before = [f"{claim.name} (priority {claim.priority})" for claim in using if claim.priority > own.priority]
    beside = [claim.name for claim in using if claim.priority == own.priority]
    if given[study] >= wanted or not (before or beside):
        return ""
    reasons = [
        *([f"waits for {', '.join(sorted(before))}"] if before else []),
        *([f"shares equally with {', '.join(sorted(beside))}"] if beside else []),
    ]
    return f"{given[study]} of {wanted} usable slots at priority {own.priority}: {'; '.join(reasons)}"
