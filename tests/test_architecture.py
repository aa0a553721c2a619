"""The network's shape: pinned counts, and configurations that come out of files."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest

from codecaux.architecture import (
    NETS,
    blocks,
    config_from_json,
    config_to_json,
    macs_per_coded_pixel,
    merged_parameter_count,
    net_config,
    parameter_shapes,
    training_parameter_count,
)
from codecaux.errors import UsageError, WeightsFormatError
from codecaux.video import SCALES

X2 = Fraction(2)


@pytest.mark.parametrize(
    ("net", "merged", "as_authors"),
    [("full", 665_932, 740_975), ("light", 260_700, 290_199)],
)
def test_parameters_are_the_papers(net: str, merged: int, as_authors: int) -> None:
    config = net_config(net, X2)
    assert merged_parameter_count(config) == merged
    assert training_parameter_count(config, as_authors_count=True) == as_authors


def test_multiply_adds_are_the_papers() -> None:
    assert macs_per_coded_pixel(net_config("full", X2)) == 134_304
    assert macs_per_coded_pixel(net_config("light", X2)) == 52_128


def test_light_has_thirteen_blocks() -> None:
    assert len(blocks(net_config("light", X2))) == 13


@pytest.mark.parametrize("net", NETS)
def test_same_size_costs_what_doubling_to_that_size_costs(net: str) -> None:
    doubled = macs_per_coded_pixel(net_config(net, X2)) / 4
    same = macs_per_coded_pixel(net_config(net, Fraction(1)))
    # The folded input has 12 channels in the first block instead of 3.
    assert doubled < same < 1.08 * doubled


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("net", NETS)
def test_configuration_survives_json(net: str, scale: Fraction) -> None:
    config = net_config(net, scale)
    assert config_from_json(config_to_json(config)) == config


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "transformer"},
        {"widths": [24, 48, 48]},
        {"widths": [24, 48, 48, 4800]},
        {"widths": [24, 48, 48, True]},
        {"widths": [24, 48, 48, 0]},
        {"blocks": [1, 2, 2, 2, 2, 2, 99]},
        {"blocks": "1222222"},
        {"scale": "7"},
        {"scale": 2},
        {"heads": 0},
        {"heads": 3},
        {"heads": True},
        {"heads": "2"},
        {"heads": 1},
        {"name": 7},
        {"name": ["light"]},
        {"hidden": 4},
        {"other": 1},
    ],
)
def test_damaged_configuration_is_a_weights_error(change: dict[str, object]) -> None:
    text = json.dumps(json.loads(config_to_json(net_config("light", X2))) | change)
    with pytest.raises(WeightsFormatError):
        config_from_json(text)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", "{", "[" * 100_000, '{"a": NaN}'])
def test_no_configuration_is_a_weights_error(text: str) -> None:
    with pytest.raises(WeightsFormatError):
        config_from_json(text)


def test_a_name_that_stands_twice_is_a_weights_error() -> None:
    text = config_to_json(net_config("light", X2))
    with pytest.raises(WeightsFormatError, match="twice"):
        config_from_json(text.replace("{", '{"scale": "1", ', 1))


def test_unknown_net_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="full, light, tiny"):
        net_config("huge", X2)


def test_shapes_hold_no_identity_branch() -> None:
    shapes = parameter_shapes(net_config("tiny", X2))
    assert list(shapes)[:2] == ["down1.0.weight", "down1.0.bias"]
    assert list(shapes)[-1] == "last.bias"
    assert not any("branch" in name for name in shapes)
