"""Whether what was asked for may be worked for now, in words."""

from dataclasses import replace
from pathlib import Path

from polyclinic.errors import ConfigError
from polyclinic_client.policy.decisions import Request
from polyclinic_client.policy.gate import check
from polyclinic_client.policy.policy import read_policy

WAITS = "waits for approval"


def standing_of(folder: Path, request: Request) -> str:
    """Say whether what was asked for may be worked for now.

    Args:
        folder: The hospital's state folder.
        request: What was asked for.
    """
    decided = request.decision
    try:
        policy = read_policy(folder)
        unasked = replace(policy, approval=False)  # all else that it demands
        check(folder, unasked, request.asked, trains=True)
    except ConfigError as error:
        if decided is not None and not decided.approved:
            return f"refused by {decided.by or 'somebody'}: {decided.reason or 'no reason given'}"
        return f"not allowed: {error}"
    if decided is not None:
        return f"approved by {decided.by or 'somebody'}"
    return WAITS if policy.approval else "allowed by the policy"
