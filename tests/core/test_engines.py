"""One suite over all engines, models, families and inner steps; and what `higher` gets wrong in silence."""

import copy

import higher
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from maml_core.engines import (
    ENGINES,
    Engine,
    MetaOptimizer,
    ReferenceEngine,
    TrainingState,
    VectorizedEngine,
    initial_state,
)
from maml_core.engines.meta_optimizer import BETAS
from maml_core.errors import EngineError
from maml_core.learning.inner_loop import InnerLoop
from maml_core.learning.models import MLP, FourierMLP, Linear, build_model
from maml_core.learning.tasks import TaskBatch, TaskFamily, TaskStream, parse_family
from tests.core.starts import FOMAML
from tests.levels import levels

INNER_LR = 0.01
OTHERS = [name for name in ENGINES if name != "higher"]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


class BareParameter(nn.Module):
    """A parameter that belongs to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = self.scale * self.layers(x)
        return scaled


def make_model(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        if name == "layer-norm":
            return nn.Sequential(nn.Linear(1, 12), nn.LayerNorm(12), nn.SiLU(), nn.Linear(12, 1))
        if name == "bare-parameter":
            return BareParameter()
    specs = {
        "linear": Linear(),
        "relu": MLP(hidden_sizes=(40, 40)),
        "tanh": MLP(hidden_sizes=(8,), activation="tanh"),
        "fourier": FourierMLP(hidden_sizes=(8,), activation="sine", features=3),
        "silu": MLP(hidden_sizes=(16, 8, 4), activation="silu"),
    }
    return build_model(specs[name], seed=3)


def make_engine(cls: type[Engine], model: nn.Module, inner_steps: int, **options: object) -> Engine:
    optimizer = MetaOptimizer(0.001, **options)  # type: ignore[arg-type]
    inner = InnerLoop(INNER_LR, inner_steps)
    return cls(model, inner=inner, meta_optimizer=optimizer, algorithm=FOMAML)


def tasks(family: TaskFamily, count: int = 1, dtype: torch.dtype = torch.float32) -> TaskBatch:
    return TaskStream(family, meta_batch_size=4, shots=5, query_shots=3, seed=7, dtype=dtype).take(0, count)


def one_gradient(engine: Engine, model: nn.Module, batch: TaskBatch) -> Tensor:
    """The meta-gradient of `batch`, read back from Adam's first moment after one meta-iteration."""
    state, _ = engine.run(initial_state(model, FOMAML), TaskBatch(*(tensor[None] for tensor in batch)))
    return state.exp_avg / (1 - BETAS[0])


def difference(left: Tensor, right: Tensor) -> float:
    return float((left - right).norm() / right.norm())


def by_hand(model: nn.Module, batch: TaskBatch, inner_steps: int, *, second_order: bool = False) -> Tensor:
    """MAML written out with autograd alone: first-order unless told otherwise."""
    names = [name for name, _ in model.named_parameters()]
    theta = [parameter.detach().clone().requires_grad_() for parameter in model.parameters()]
    total = torch.zeros(sum(parameter.numel() for parameter in theta), dtype=theta[0].dtype)
    for sx, sy, qx, qy in zip(*batch, strict=True):
        phi = theta
        for _ in range(inner_steps):
            output = torch.func.functional_call(model, dict(zip(names, phi, strict=True)), (sx,))
            gradient = torch.autograd.grad(mse_loss(output, sy), phi, create_graph=second_order)
            phi = [value - INNER_LR * g for value, g in zip(phi, gradient, strict=True)]
            if not second_order:
                phi = [value.detach().requires_grad_() for value in phi]
        output = torch.func.functional_call(model, dict(zip(names, phi, strict=True)), (qx,))
        gradient = torch.autograd.grad(mse_loss(output, qy), theta if second_order else phi)
        total += torch.cat([g.reshape(-1) for g in gradient]) / len(batch.support_x)
    return total


MODELS = ["linear", "relu", "silu", "fourier", "layer-norm", "bare-parameter"]
CASES = [
    *((model, "sine", 5, torch.float64) for model in MODELS),
    *((model, "line", 1, torch.float32) for model in MODELS),
    ("relu", "sine", 0, torch.float64),
    ("relu", "sine", 5, torch.float32),
]
"""Models, families, steps and precisions in pairs: all of their products would say nothing more."""


BY_HAND = [(name, *case) for case in CASES for name in ENGINES]
COMPILED = [case for case in BY_HAND if case[0] == "native"]


@pytest.mark.parametrize(
    ("name", "model_name", "family", "inner_steps", "dtype"),
    levels(BY_HAND, lambda case: case not in COMPILED or case[1] == "relu", COMPILED),
)
def test_meta_gradient_equals_one_written_by_hand(
    name: str, model_name: str, family: str, inner_steps: int, dtype: torch.dtype
) -> None:
    model = make_model(model_name).to(dtype)
    batch = tasks(parse_family({"family": family}), dtype=dtype).at(0)
    engine = make_engine(ENGINES[name], model, inner_steps)
    found = one_gradient(engine, model, batch)
    assert difference(found, by_hand(model, batch, inner_steps)) < TOLERANCE[dtype]
    assert all(part.abs().sum() > 0 for part in engine.layout.unflatten(found).parameters.values())


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("clip_norm", levels([None, 0.5], [None], [0.5]))
def test_same_curve_as_the_reference_over_50_iterations(name: str, clip_norm: float | None) -> None:
    """Rounding differences grow along a chaotic path; over 50 iterations they stay below 1e-4 relative."""
    curves = []
    for cls in (ReferenceEngine, ENGINES[name]):
        model = make_model("relu")
        engine = make_engine(cls, model, 5, clip_norm=clip_norm)
        _, metrics = engine.run(initial_state(model, FOMAML), tasks(parse_family({"family": "sine"}), 50))
        curves.append(metrics)
    torch.testing.assert_close(curves[0], curves[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ENGINES)
def test_same_bits_twice_and_in_any_chunks(name: str) -> None:
    def train(chunks: list[int]) -> tuple[TrainingState, Tensor]:
        model = make_model("relu")
        engine = make_engine(ENGINES[name], model, 2, schedule="cosine", total=20, ema_decay=0.9)
        state, seen, batch = (
            initial_state(model, FOMAML, averages=True),
            [],
            tasks(parse_family({"family": "sine"}), 20),
        )
        for size in chunks:
            state, metrics = engine.run(state, batch.at(slice(state.iteration, state.iteration + size)))
            seen.append(metrics)
        return state, torch.cat(seen)

    first, metrics = train([20])
    for chunks in ([20], [1] * 20, [3, 7, 10]):
        again, more = train(chunks)
        assert torch.equal(first.parameters, again.parameters)
        assert torch.equal(first.exp_avg_sq, again.exp_avg_sq)
        assert torch.equal(first.learned, again.learned)
        assert torch.equal(metrics, more)


@pytest.mark.parametrize("name", levels(OTHERS, ["vectorized"], OTHERS))
def test_the_average_is_that_of_the_reference_and_changes_nothing_else(name: str) -> None:
    ends = {}
    for cls, averages in ((ReferenceEngine, True), (ENGINES[name], True), (ENGINES[name], False)):
        model = make_model("tanh").double()
        engine = make_engine(cls, model, 2, ema_decay=0.9 if averages else None)
        state = initial_state(model, FOMAML, averages=averages)
        batch = tasks(parse_family({"family": "sine"}), 15, dtype=torch.float64)
        ends[cls.name, averages], _ = engine.run(state, batch)
    reference, found, plain = ends["higher", True], ends[name, True], ends[name, False]
    assert difference(found.learned, reference.learned) < 1e-10
    assert difference(found.learned, found.parameters) > 1e-5
    assert torch.equal(found.parameters, plain.parameters)
    assert plain.learned is plain.parameters


@pytest.mark.parametrize("inner_steps", [1, 5])
def test_first_order_is_not_second_order(inner_steps: int) -> None:
    """At zero steps they coincide, so only one step and more can tell them apart."""
    model = make_model("tanh").double()
    batch = tasks(parse_family({"family": "sine"}), dtype=torch.float64).at(0)
    second = by_hand(model, batch, inner_steps, second_order=True)
    first = (
        make_engine(ReferenceEngine, model, inner_steps)
        .meta_gradient(initial_state(model, FOMAML).parameters, batch)
        .gradient
    )
    assert difference(first, second) > 1e-3
    assert difference(by_hand(model, batch, 0, second_order=True), by_hand(model, batch, 0)) < 1e-12


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
        lambda parameters: torch.optim.Adam(parameters, lr=0.01),
        lambda parameters: torch.optim.Adagrad(parameters, lr=0.01),
    ],
    ids=["momentum", "adam", "adagrad"],
)
def test_other_inner_optimizers_match_torch(optimizer: object) -> None:
    model = make_model("tanh").double()
    batch = tasks(parse_family({"family": "sine"}), dtype=torch.float64).at(0)
    engine = ReferenceEngine(
        model,
        inner=InnerLoop(INNER_LR, 3),
        meta_optimizer=MetaOptimizer(0.001),
        algorithm=FOMAML,
    )
    engine.inner_optimizer = optimizer  # type: ignore[assignment]
    expected = torch.zeros(engine.layout.size, dtype=torch.float64)
    for sx, sy, qx, qy in zip(*batch, strict=True):
        adapted = copy.deepcopy(model)
        inner = optimizer(adapted.parameters())  # type: ignore[operator]
        for _ in range(3):
            inner.zero_grad()
            mse_loss(adapted(sx), sy).backward()
            inner.step()
        gradient = torch.autograd.grad(mse_loss(adapted(qx), qy), list(adapted.parameters()))
        expected += torch.cat([g.reshape(-1) for g in gradient]) / 4
    # `higher` guards Adam's square root with an epsilon of its own.
    assert difference(engine.meta_gradient(initial_state(model, FOMAML).parameters, batch).gradient, expected) < 1e-4


def _query_loss_backward(steps: int, **context: bool) -> list[Tensor | None]:
    model = make_model("tanh")
    batch = tasks(parse_family({"family": "sine"})).at(0)
    with higher.innerloop_ctx(model, torch.optim.SGD(model.parameters(), lr=INNER_LR), **context) as (adapted, inner):
        for _ in range(steps):
            inner.step(mse_loss(adapted(batch.support_x[0]), batch.support_y[0]))
        mse_loss(adapted(batch.query_x[0]), batch.query_y[0]).backward()
    return [parameter.grad for parameter in model.parameters()]


def test_known_mistake_no_tracking_and_backward_leaves_every_gradient_none() -> None:
    assert all(grad is None for grad in _query_loss_backward(1, copy_initial_weights=False, track_higher_grads=False))
    # At zero steps the gradients do fill, so a test without an inner step would not see the mistake.
    assert all(
        grad is not None for grad in _query_loss_backward(0, copy_initial_weights=False, track_higher_grads=False)
    )


def test_known_mistake_copied_weights_leave_every_gradient_none() -> None:
    assert all(grad is None for grad in _query_loss_backward(1))


def test_known_mistake_default_tracking_is_second_order() -> None:
    model = make_model("tanh")
    one_task = TaskBatch(*(tensor[:1] for tensor in tasks(parse_family({"family": "sine"})).at(0)))
    found = torch.cat([g.reshape(-1) for g in _query_loss_backward(1, copy_initial_weights=False) if g is not None])
    assert difference(found, by_hand(model, one_task, 1, second_order=True)) < 1e-5
    assert difference(found, by_hand(model, one_task, 1)) > 1e-3


@pytest.mark.parametrize(
    ("module", "word"),
    [
        (nn.BatchNorm1d(4), "BatchNorm1d.*track_running_stats=False"),
        (nn.Dropout(0.5), "Dropout.*eval"),
        (nn.LSTM(4, 4, num_layers=2, dropout=0.1), "LSTM.*dropout=0"),
    ],
    ids=["batch-norm", "dropout", "lstm"],
)
def test_what_cannot_be_vectorized_is_refused_at_once(module: nn.Module, word: str) -> None:
    with pytest.raises(EngineError, match=word):
        make_engine(VectorizedEngine, nn.Sequential(nn.Linear(1, 4), module), 1)


@pytest.mark.parametrize("module", [nn.BatchNorm1d(4), nn.Dropout(0.5)], ids=["batch-norm", "dropout"])
def test_what_is_in_evaluation_mode_stays_so_and_changes_nothing(module: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(1, 4), module.eval(), nn.Linear(4, 1))
    batch = tasks(parse_family({"family": "sine"})).at(0)
    before = {name: value.clone() for name, value in model.named_buffers()}
    found = [
        engine.meta_gradient(initial_state(model, FOMAML).parameters, batch).gradient
        for engine in (make_engine(kind, model, 2) for kind in (ReferenceEngine, VectorizedEngine))
    ]
    assert difference(found[0], found[1]) < 1e-5
    assert not module.training
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_memory_is_flat_in_the_number_of_inner_steps() -> None:
    """What is alive at the peak of 60 inner steps is what is alive at the peak of 6."""

    def peak(inner_steps: int) -> int:
        model = make_model("relu")
        engine = make_engine(VectorizedEngine, model, inner_steps)
        batch, theta = tasks(parse_family({"family": "sine"})).at(0), initial_state(model, FOMAML).parameters
        engine.meta_gradient(theta, batch)  # traced, and warm
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            engine.meta_gradient(theta, batch)
        live = highest = 0
        events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
        for event in sorted(events, key=lambda event: event.start_ns()):
            live += event.nbytes()
            highest = max(highest, live)
        return highest

    assert 0 < peak(60) <= 1.1 * peak(6)
