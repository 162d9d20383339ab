"""Quorums of a configuration: what a majority has, or has decided. In a joint configuration a
majority of the incoming and one of the outgoing voters must agree (thesis, section 4.3).
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Final

from rusd.raft.message import ConfState

_NO_BOUND: Final = sys.maxsize


class Outcome(Enum):
    """Of a vote, so far."""

    PENDING = 0
    LOST = 1
    WON = 2


def majority_index(indexes: Iterable[int]) -> int:
    """The highest index that a majority has reached; without voters there is no bound."""
    ordered = sorted(indexes)
    return ordered[(len(ordered) - 1) // 2] if ordered else _NO_BOUND


def agreed_index(config: ConfState, reached: Callable[[int], int]) -> int:
    """The highest index that a quorum of `config` has reached; `reached` tells it of a voter. 0
    when there are no voters at all.
    """
    if not config.voters:
        return 0
    incoming = majority_index(map(reached, config.voters))
    if not config.outgoing:
        return incoming
    return min(incoming, majority_index(map(reached, config.outgoing)))


def vote_result(config: ConfState, votes: Mapping[int, bool]) -> Outcome:
    """What `votes`, by voter, amount to. Votes of others do not count."""
    halves = [half for half in (config.voters, config.outgoing) if half]
    outcomes = {_majority_result(half, votes) for half in halves}
    if not outcomes or Outcome.LOST in outcomes:
        return Outcome.LOST
    return Outcome.PENDING if Outcome.PENDING in outcomes else Outcome.WON


def _majority_result(voters: tuple[int, ...], votes: Mapping[int, bool]) -> Outcome:
    needed = len(voters) // 2 + 1
    granted = sum(votes.get(voter, False) for voter in voters)
    if granted >= needed:
        return Outcome.WON
    missing = sum(voter not in votes for voter in voters)
    return Outcome.PENDING if granted + missing >= needed else Outcome.LOST
