"""Fair shares of a cluster's slots among several studies, by a rule that every driver evaluates independently.

Higher priorities are served first; slots that they cannot use go to the next priority. Within a priority, slots are
dealt one by one to the study with the smallest fraction of the cluster. Ties go to a study that already holds the slot,
then to the study that arrived first, so shares are stable while the claims are. Trials of two studies may need different
resources; fractions are therefore compared, and a slot of a study is 1/n of the cluster if n of its trials fill it.
"""

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A study's claim on the cluster.

    study: its id. name: its display name. priority: higher is served first. slots: number of its trials that the cluster
    could run at once without other studies. demand: number of slots that it could use now, running trials included.
    share: slots currently assigned to it. arrival: its position in the order of arrival.
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
        """Heap entry; the smallest is served next."""
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
    """Which other studies limit this study's slots, and why; empty if none does."""
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
