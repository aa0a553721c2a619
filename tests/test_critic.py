"""Critics: what they see, that they learn, that they are seeded and go on from their state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from codecaux.colour import Planes
from codecaux.encoder.bank import Around, BankSettings
from codecaux.encoder.critic import Critic, LearnedLoss, Opponent, Sample, open_critic
from codecaux.encoder.lossnet import LearnedSettings
from codecaux.encoder.objective import ABLATIONS, OBJECTIVES
from codecaux.video import Colour

CPU = torch.device("cpu")
SETTINGS = LearnedSettings(width=0.125, size=32, patches=2, learning_rate=1e-3)


def _planes(seed: int, size: int = 48, count: int = 3) -> Planes:
    generator = torch.Generator().manual_seed(seed)
    y = torch.rand(count, 1, size, size, generator=generator)
    u, v = (torch.rand(count, 1, size // 2, size // 2, generator=generator) - 0.5 for _ in "uv")
    return Planes(y, u, v)


def _sample(shown: Planes | None = None) -> Sample:
    """A blurred picture between true neighbours."""
    source = _planes(1)
    blurred = Planes(*(0.5 * p + 0.5 * p.mean((2, 3), keepdim=True) for p in source))
    around = Around(*(_planes(seed, 32) for seed in (2, 3)), *(_planes(s, 16) for s in (4, 5)))
    return Sample(blurred if shown is None else shown, source, around)


def _never(coded: Planes) -> Planes:
    raise AssertionError("nothing else was to be generated")


def _doubled(coded: Planes) -> Planes:
    return Planes(*(p.repeat_interleave(2, 2).repeat_interleave(2, 3) for p in coded))


def _learned(**changes: object) -> LearnedLoss:
    return LearnedLoss(replace(SETTINGS, **changes), Colour(), CPU, 7)  # type: ignore[arg-type]


MAKERS: dict[str, Callable[[], Critic]] = {
    "learned": _learned,
    "no fake": lambda: _learned(new_fake=False),
    "adversarial": lambda: _learned(content=0.0, relation=0.0, adversarial=1.0),
    "opponent": lambda: Opponent(1e-3, Colour(), CPU, 7),
}


@pytest.mark.parametrize("name", MAKERS)
def test_it_learns_to_tell_and_its_own_loss_falls(name: str) -> None:
    critic, sample = MAKERS[name](), _sample()
    losses = [critic.learn(sample, _doubled).item() for _ in range(12)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("name", MAKERS)
def test_its_term_moves_the_picture_and_not_itself(name: str) -> None:
    critic = MAKERS[name]()
    shown = Planes(*(plane.clone().requires_grad_() for plane in _sample().shown))
    critic.loss(_sample(shown)).backward()  # type: ignore[no-untyped-call]
    assert all(plane.grad is not None and plane.grad.abs().sum() > 0 for plane in shown)
    assert all(p.grad is None and p.requires_grad for p in critic.net.parameters())


def test_matching_is_zero_at_the_source_and_sees_some_middles_only() -> None:
    critic = _learned()
    source = _sample().source
    assert critic.loss(_sample(source)).item() == 0.0
    y = source.y.clone()
    y[2] += 0.1  # the third patch of two that are looked at
    y[:2, :, :8] += 0.1  # and what lies outside of the middle 32 of 48
    assert critic.loss(_sample(source._replace(y=y))).item() == 0.0
    y[1, :, 24, 24] += 0.1
    assert critic.loss(_sample(source._replace(y=y))).item() > 0.0


def test_the_terms_are_weighted_as_told() -> None:
    def term(**changes: object) -> float:
        return _learned(**changes).loss(_sample()).item()

    content, relation = term(relation=0.0), term(content=0.0)
    assert content > relation > 0.0
    assert term() == pytest.approx(content + relation, rel=1e-5)
    assert term(weight=3.0, relation=0.0) == pytest.approx(3 * content, rel=1e-5)


def test_the_new_fake_has_one_generated_frame_and_the_old_one_three() -> None:
    """Equation 1 with the sequences of section 3.1."""
    _learned().learn(_sample(), _never)
    made: list[tuple[int, ...]] = []

    def generate(coded: Planes) -> Planes:
        made.append(tuple(coded.y.shape))
        return _doubled(coded)

    _learned(new_fake=False).learn(_sample(), generate)
    assert made == [(2, 1, 16, 16)] * 2


def test_a_fake_that_is_true_cannot_be_told() -> None:
    """Equation 1 where all that is shown is the source: both sequences are one."""
    critic = _learned()
    same = _sample(_sample().source)
    with torch.no_grad():
        frames = critic._frames(same)
        last = critic.net.extractor(frames)[-1]
        real, fake = (critic.net.classifier(last[:, at]) for at in ([0, 1, 2], [0, 3, 2]))
    torch.testing.assert_close(real, fake)


def test_the_seed_decides_and_the_process_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    one, same = _learned(), _learned()
    assert torch.equal(torch.random.get_rng_state(), before)
    other = LearnedLoss(SETTINGS, Colour(), CPU, 8)
    first, second, third = (c.loss(_sample()).item() for c in (one, same, other))
    assert first == second != third


@pytest.mark.parametrize("name", MAKERS)
def test_it_goes_on_from_its_state(name: str) -> None:
    critic, other = MAKERS[name](), MAKERS[name]()
    for _ in range(3):
        critic.learn(_sample(), _doubled)
    critic.settle()
    critic.learn(_sample(), _doubled)
    other.restore(critic.state())
    assert other.judged(_sample()).item() == critic.judged(_sample()).item()
    for _ in range(3):
        losses = [c.learn(_sample(), _doubled).item() for c in (critic, other)]
        assert losses[0] == losses[1]
    assert other.loss(_sample()).item() == critic.loss(_sample()).item()


def test_the_settled_judge_stays() -> None:
    critic = _learned()
    critic.settle()
    first = critic.judged(_sample()).item()
    assert first == critic.loss(_sample()).item()
    for _ in range(3):
        critic.learn(_sample(), _never)
    assert critic.judged(_sample()).item() == first != critic.loss(_sample()).item()
    assert len(critic.trace) == 3


def test_a_weight_that_is_not_finite_is_noticed() -> None:
    critic = _learned()
    assert critic.is_finite
    with torch.no_grad():
        critic.net.classifier.last.bias.fill_(float("nan"))
    assert not critic.is_finite


def test_bf16_is_close_to_float32() -> None:
    critic = _learned()
    exact = critic.loss(_sample()).item()
    critic.dtype = torch.bfloat16
    assert critic.loss(_sample()).item() == pytest.approx(exact, rel=0.03)


def test_objectives_open_the_critics_that_they_name() -> None:
    def opened(name: str) -> Critic | None:
        objective = (OBJECTIVES | ABLATIONS)[name]
        return open_critic(objective, Colour(), CPU, torch.float32, 0)

    assert opened("balanced") is None
    assert opened("fidelity") is None
    assert isinstance(opened("sr-unet"), Opponent)
    settings = {}
    offline = opened("balanced-offline")
    assert isinstance(offline, LearnedLoss)
    assert offline.settings == OBJECTIVES["balanced"].stand_in
    for name in ("learned", *(n for n in ABLATIONS if n.startswith("learned-"))):
        critic = opened(name)
        assert isinstance(critic, LearnedLoss)
        settings[name] = critic.settings
    whole = settings["learned"]
    assert (whole.content, whole.relation, whole.new_fake, whole.adversarial) == (1, 1, True, 0)
    assert settings["learned-no-content"] == replace(whole, content=0.0)
    assert settings["learned-no-relation"] == replace(whole, relation=0.0)
    assert settings["learned-no-fake"] == replace(whole, new_fake=False)
    assert settings["learned-no-warm-up"] == replace(whole, warm_up=0)
    opposed = settings["learned-adversarial"]
    assert (opposed.content, opposed.relation) == (0, 0)
    assert opposed.adversarial > 0


def test_only_what_is_asked_for_is_kept_in_the_bank() -> None:
    plain = BankSettings()
    assert Opponent(1e-3, Colour(), CPU, 0).bank_settings(plain) == plain
    assert _learned().bank_settings(plain) == replace(plain, around=32)
    old = _learned(new_fake=False).bank_settings(plain)
    assert old == replace(plain, around=32, coded_around=True)
