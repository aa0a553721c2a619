"""What a fit is for on this machine: an objective, LPIPS where that is at hand, and a critic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from codecaux.device import Device
from codecaux.encoder.bank import BankSettings
from codecaux.encoder.critic import Critic, open_critic
from codecaux.encoder.objective import LossTerms, Objective
from codecaux.errors import UsageError
from codecaux.events import Events, Notice
from codecaux.lpips import Lpips, LpipsNet, min_size
from codecaux.video import Colour

__all__ = ["FindLpips", "Goal", "make_goal", "open_goal"]

# The net and who wants it -> LPIPS on the device, None where it is not to be had.
FindLpips: TypeAlias = Callable[[LpipsNet, str], Events[Lpips | None]]

# The loss network halves its input five times, and takes statistics of what is left.
_LEAST_SIZE = 32


@dataclass(frozen=True, slots=True, eq=False)
class Goal:
    """The terms of the loss that never change, and the critic that learns, where there is one."""

    terms: LossTerms
    critic: Critic | None

    @property
    def has_stand_in(self) -> bool:
        """Does a learned term take the place of LPIPS?"""
        objective = self.terms.objective
        return objective.learned is not None and objective.learned == objective.stand_in

    def bank_settings(self, settings: BankSettings) -> BankSettings:
        """``settings`` of a bank that has what the critic wants."""
        return settings if self.critic is None else self.critic.bank_settings(settings)


def open_goal(
    objective: Objective,
    colour: Colour,
    patch_size: tuple[int, int],
    seed: int,
    device: Device,
    find_lpips: FindLpips,
) -> Events[Goal]:
    """See what is at hand for ``objective``, and say what is not.

    patch_size: (height, width) of the patches in source pixels. seed: of the critic's start.
    """
    lpips = None
    height, width = patch_size
    if objective.learned is not None and min(height, width) < _LEAST_SIZE:
        raise UsageError(
            f"expected pictures of at least {_LEAST_SIZE}x{_LEAST_SIZE} for the objective "
            f"{objective.name}, got {width}x{height}; use --objective fidelity"
        )
    if objective.wants_lpips and min(height, width) < min_size("squeeze"):
        yield Notice(f"the fit does without LPIPS: the picture is only {width}x{height}")
        # Nor is such a picture for what stands in: its last maps would be single numbers.
        objective = replace(objective, stand_in=None)
    elif objective.wants_lpips:
        lpips = yield from find_lpips("squeeze", f"the objective {objective.name} does")
        lpips = lpips.cast(device.compute_dtype) if lpips else None
    goal = make_goal(objective, colour, lpips, seed, device)
    if goal.has_stand_in:
        yield Notice("a loss network that learns from the title itself stands in for LPIPS")
    return goal


def make_goal(
    objective: Objective, colour: Colour, lpips: Lpips | None, seed: int, device: Device
) -> Goal:
    """The goal with exactly this ``lpips``; without one, with what stands in for it."""
    resolved = objective.with_or_without(lpips)
    critic = open_critic(resolved, colour, device.torch_device, device.compute_dtype, seed)
    return Goal(LossTerms(resolved, colour, lpips), critic)
