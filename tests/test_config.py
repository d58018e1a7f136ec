"""Every setting is checked by its type and range, and one line says what was expected."""

import dataclasses

import numpy as np
import pytest

from srn_jax.config import ExperimentConfig, SweepConfig
from srn_jax.errors import UserError


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"learning_rate": -1}, "`learning_rate` must be a number above 0 and at most 1e"),
        ({"learning_rate": float("nan")}, "got nan"),
        ({"clip_norm": 1e-50}, "neither 0 nor infinite in float32"),
        ({"learning_rate": 1e-40}, "neither 0 nor infinite in float32"),
        ({"hidden_size": 2.0}, "a whole number from 1 to 4096, got 2.0"),
        ({"hidden_size": True}, "got True"),
        ({"cell": "foo"}, "`cell` must be one of srn"),
        ({"cell": [1]}, "`cell` must be one of srn"),
        ({"chrono": 2}, "`chrono` must be a number above 2"),
        ({"shuffle": 1}, "`shuffle` must be true or false, got 1"),
        ({"steps": 10**5000}, "got "),
        ({"weight_decay": 0.1}, "`weight_decay` needs `optimizer` adamw or sgd"),
        ({"schedule": "cosine", "learning_rate": abs}, "leave out `schedule`"),
        ({"shuffle": True, "fresh_data": True}, "leave out `shuffle`"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(settings, words):
    with pytest.raises(UserError, match=words) as error:
        ExperimentConfig(**settings)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lengths": ()}, "`lengths` is empty"),
        ({"seeds": (1, 2, 1)}, "`seeds` names 1 more than once"),
        ({"seeds": (-1,)}, "`seeds` must be a whole number from 0"),
        ({"probes": ("loss",)}, "`probes` must be one of gradient-norm"),
    ],
)
def test_wrong_lists_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        SweepConfig(**settings)


def test_settings_that_change_no_shape_share_a_program():
    base = ExperimentConfig()
    for alike in ({"learning_rate": 0.1}, {"forget_bias": 1.0}):
        assert dataclasses.replace(base, **alike).program == base.program
    for more in ({"clip_norm": 1.0}, {"chrono": 9.0}, {"learning_rate": abs}, {"layers": 2}):
        assert ExperimentConfig(**more).program != base.program
    clipped = [ExperimentConfig(clip_norm=norm).program for norm in (0.5, 5.0)]
    assert clipped[0] == clipped[1]
    assert hash(clipped[0]) == hash(clipped[1])


def test_lengths_are_the_outer_loop():
    assert SweepConfig((3, 5), (0, 1)).experiments == ((3, 0), (3, 1), (5, 0), (5, 1))
    assert np.ndim(ExperimentConfig(learning_rate=1).learning_rate) == 0
