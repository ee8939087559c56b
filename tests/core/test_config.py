import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from maml_core.config import RunConfig, parse_settings
from maml_core.errors import ConfigError
from maml_core.fields import bounds, choices, is_optional
from maml_core.learning.algorithms import ALGORITHMS
from maml_core.learning.families import Line, Sine
from maml_core.learning.models import MLP, MODELS, Linear
from maml_core.learning.tasks import FAMILIES
from maml_core.presets import PRESETS, get_preset

NUMERIC = [name for name, field in RunConfig.model_fields.items() if bounds(field).low is not None]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str) -> None:
    config = PRESETS[name].config
    assert RunConfig.from_json(config.to_json()) == config


def test_preset_values_are_the_documented_ones() -> None:
    sine = PRESETS["sine"].config
    assert sine.model == MLP(hidden_sizes=(64,), activation="relu")
    assert isinstance(sine.tasks, Sine)
    assert sine.tasks.amplitude.span == (0, 5)
    assert sine.tasks.frequency.span == (0.1, 2.1)
    assert sine.tasks.x.span == (0, 2 * math.pi)
    linear = PRESETS["linear"].config
    assert (linear.model, linear.tasks, linear.inner_steps) == (Linear(), Line(), 1)
    for config in (sine, linear):
        assert (config.meta_batch_size, config.shots, config.query_shots) == (5, 10, 5)
        assert (config.inner_lr, config.meta_lr, config.meta_iterations) == (0.01, 0.001, 1000)
    for shots in (5, 10):
        paper = PRESETS[f"paper-{shots}-shot"].config
        assert paper.model == MLP(hidden_sizes=(40, 40))
        assert isinstance(paper.tasks, Sine)
        assert (paper.tasks.amplitude.span, paper.tasks.phase.span) == ((0.1, 5), (0, math.pi))
        assert (paper.shots, paper.query_shots, paper.meta_batch_size, paper.meta_iterations) == (
            shots,
            shots,
            25,
            70_000,
        )


@given(
    st.builds(
        RunConfig,
        model=st.one_of(
            st.just(Linear()),
            st.builds(
                MLP,
                hidden_sizes=st.lists(st.integers(1, 64), min_size=1, max_size=3).map(tuple),
                activation=st.sampled_from(["relu", "tanh", "silu"]),
            ),
        ),
        tasks=st.sampled_from([Line(), Sine(), Sine(noise=0.3)]),
        shots=st.integers(1, 1000),
        inner_lr=st.floats(1e-30, 1e38),
        clip_norm=st.none() | st.floats(1e-6, 1e6),
        seed=st.integers(0, 2**32 - 1),
    )
)
def test_any_config_survives_json(config: RunConfig) -> None:
    assert RunConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize("name", NUMERIC)
@pytest.mark.parametrize("value", [-1, "ten", "", True, math.nan, math.inf, -math.inf, 2**63 * 1e30, [], {}])
def test_bad_numbers_get_one_sentence(name: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        PRESETS["sine"].config.with_settings({name: value})
    text = str(caught.value)
    assert text.startswith(f"{name} = ")
    assert "must be" in text
    assert "\n" not in text


@pytest.mark.parametrize("name", NUMERIC)
def test_bounds_are_inclusive_where_they_say_so(name: str) -> None:
    field = RunConfig.model_fields[name]
    limits = bounds(field)
    assert limits.high is not None
    assert limits.low is not None
    kind = int if limits.integer else float
    base = PRESETS["linear"].config
    if name == "shards":  # of which each has as many tasks
        base = base.with_settings({"meta_batch_size": int(limits.high)})
    assert getattr(base.with_settings({name: kind(limits.high)}), name) == limits.high
    if limits.low_open:
        with pytest.raises(ConfigError, match="above"):
            base.with_settings({name: kind(limits.low)})
    else:
        assert getattr(base.with_settings({name: kind(limits.low)}), name) == limits.low
    with pytest.raises(ConfigError):
        base.with_settings({name: kind(limits.high * 2 + 1)})


@pytest.mark.parametrize("name", [n for n, field in RunConfig.model_fields.items() if not is_optional(field)])
def test_null_is_refused_where_it_means_nothing(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}"):
        PRESETS["sine"].config.with_settings({name: None})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tasks.amplitude": [3, 1]}, ["tasks.amplitude", "low <= high must hold, but got (low=3, high=1)"]),
        ({"tasks.amplitude": [3]}, ["tasks.amplitude", "[low, high]"]),
        ({"tasks.amplitude": ["a", 1]}, ["tasks.amplitude", "'a'"]),
        ({"tasks.family": "moons"}, ["tasks.family", "'moons'", "line, sine"]),
        ({"model.kind": "transformer"}, ["model.kind", "'transformer'", "linear, mlp"]),
        ({"model.hidden_sizes": [0]}, ["model.hidden_sizes", "1 to 65,536"]),
        ({"model.hidden_sizes": "wide"}, ["model.hidden_sizes", "'wide'"]),
        ({"model.hidden_sizes": [65536, 65536]}, ["model", "GiB", "at most 2 GiB"]),
        (
            {"model.hidden_sizes": [9000], "algorithm": "fo-meta-curvature"},
            ["model", "tasks per meta-batch and algorithm = fo-meta-curvature", "at most 2 GiB"],
        ),
        ({"wings": 2}, ["wings is not a field", "inner_lr"]),
        ({"tasks.wings": 2}, ["tasks.wings is not a field", "amplitude"]),
        ({"schedule": "sometimes"}, ["schedule", "constant, cosine"]),
        ({"tasks": 3}, ["tasks = 3", "object"]),
    ],
)
def test_errors_name_field_value_and_rule(settings: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        PRESETS["sine"].config.with_settings(settings)
    for word in words:
        assert word in str(caught.value)


def test_change_of_family_starts_from_its_defaults() -> None:
    config = PRESETS["sine"].config.with_settings({"tasks.family": "line", "tasks.noise": 0.1})
    assert config.tasks == Line(noise=0.1)


def test_settings_are_json_or_a_bare_word() -> None:
    assert parse_settings(["a=1", "b=[1, 2]", "c=word", "d=null", "e="]) == {
        "a": 1,
        "b": [1, 2],
        "c": "word",
        "d": None,
        "e": "",
    }
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        parse_settings(["inner_lr"])


def test_unknown_preset() -> None:
    with pytest.raises(ConfigError, match=r"'nope'.*linear, sine"):
        get_preset("nope")


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "{" * 100_000])
def test_text_that_is_no_config(text: str) -> None:
    with pytest.raises(ConfigError):
        RunConfig.from_json(text)


def test_every_field_has_help() -> None:
    specs: list[type[BaseModel]] = [RunConfig, *FAMILIES.values(), *MODELS.values()]
    for spec in specs:
        for name, field in spec.model_fields.items():
            assert field.description or name in ("family", "kind"), f"{spec.__name__}.{name}"


def test_config_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        PRESETS["sine"].config.shots = 3  # type: ignore[misc]


def test_json_is_plain() -> None:
    data = json.loads(PRESETS["sine"].config.to_json())
    assert data["tasks"]["amplitude"] == [0.0, 5.0]
    assert choices(RunConfig.model_fields["algorithm"]) == tuple(ALGORITHMS)


def test_what_is_learned_beside_counts() -> None:
    plain = RunConfig(model=MLP(hidden_sizes=(8,)))
    rates, matrices = (plain.with_settings({"algorithm": name}) for name in ("fo-meta-sgd", "fo-meta-curvature"))
    assert plain.sizes() == (8 + 8 + 8 + 1, 0, 0)
    assert rates.sizes() == (25, 25, 0)
    squares = (64 + 1) + 64 + (1 + 64) + 1  # of the weights 8 x 1, their biases, the weights 1 x 8, their bias
    products = 8 * (8 + 1) + 8 * 8 + 8 * (1 + 8) + 1 * 1
    assert matrices.sizes() == (25, squares, products)
    assert rates.memory_estimate(rates.sizes()) == plain.memory_estimate(plain.sizes())
    more = matrices.memory_estimate(matrices.sizes()) - plain.memory_estimate(plain.sizes())
    assert more == 4 * (squares - 25) * (5 + 3 * 25)
    assert matrices.multiplications(matrices.sizes()) - plain.multiplications(plain.sizes()) == 3 * products * 25
