"""Every algorithm in every engine against autograd alone, and second-order ones against finite differences."""

import copy
import inspect
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, mse_loss

from maml_core.config import RunConfig
from maml_core.engines import ENGINES, MetaOptimizer, ReferenceEngine, VectorizedEngine, initial_state
from maml_core.errors import ConfigError, EngineError
from maml_core.evaluation.gradients import untraced
from maml_core.learning.algorithms import ALGORITHMS, FOMAML, FirstOrderBilevelMAML
from maml_core.learning.families import Circles, Sine
from maml_core.learning.inner_loop import InnerLoop, Loss
from maml_core.learning.layout import Layout
from maml_core.learning.models import MLP, build_model
from maml_core.learning.ridge_head import LEAST_PENALTY, QUIET
from maml_core.learning.tasks import FAMILIES, TaskBatch, TaskFamily, TaskStream, parse_family
from maml_core.presets import PRESETS
from maml_core.training.trainer import Trainer
from tests.levels import levels

INNER_LR = 0.02


OF_PROBLEM: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"regression": mse_loss, "classification": cross_entropy}
"""The loss of each problem, as torch has it."""


def setup(family: TaskFamily | None = None) -> tuple[nn.Module, TaskBatch]:
    family = family or Sine()
    sizes = family.input_size, family.output_size
    model = build_model(MLP(hidden_sizes=(6, 5), activation="tanh"), 3, *sizes).double()
    stream = TaskStream(family, meta_batch_size=3, shots=5, query_shots=4, seed=7, dtype=torch.float64)
    return model, stream.take(0, 1).at(0)


def adapted_losses(
    model: nn.Module,
    start: list[Tensor],
    move: Callable[[int, Tensor], Tensor],
    batch: TaskBatch,
    steps: int,
    *,
    first_order: bool,
    only_head: bool,
    judge: Callable[[Tensor, Tensor], Tensor],
) -> list[tuple[list[Tensor], Tensor]]:
    """phi and query loss of each task, with autograd alone."""
    names = [name for name, _ in model.named_parameters()]
    found = []
    for sx, sy, qx, qy in zip(*batch, strict=True):
        phi = start
        moving = range(len(phi) - 2, len(phi)) if only_head else range(len(phi))
        for _ in range(steps):
            loss = judge(functional_call(model, dict(zip(names, phi, strict=True)), (sx,)), sy)
            inner = torch.autograd.grad(loss, phi, create_graph=not first_order, retain_graph=True)
            phi = [value - move(i, inner[i]) if i in moving else value for i, value in enumerate(phi)]
        found.append((phi, judge(functional_call(model, dict(zip(names, phi, strict=True)), (qx,)), qy)))
    return found


def by_hand(name: str, model: nn.Module, flat: Tensor, batch: TaskBatch, steps: int, problem: str) -> Tensor:
    algorithm, judge = ALGORITHMS[name], OF_PROBLEM[problem]
    if name == "fo-b-maml":
        return bilevel_by_hand(model, flat, batch, steps, judge)
    if algorithm.solves:
        return ridge_by_hand(model, flat, batch, judge, first_order=algorithm.is_first_order)
    if "meta-curvature" in name:
        return curvature_by_hand(model, flat, batch, steps, judge, first_order=algorithm.is_first_order)
    sizes = [parameter.numel() for parameter in model.parameters()]
    pieces = flat.split(sizes * (2 if "meta-sgd" in name else 1))
    shaped = [
        p.reshape(q.shape).clone().requires_grad_() for p, q in zip(pieces, [*model.parameters()] * 2, strict=False)
    ]
    fixed = torch.tensor(INNER_LR, dtype=torch.float64)
    start, rates = shaped[: len(sizes)], [fixed * factor for factor in shaped[len(sizes) :]] or [fixed] * len(sizes)
    tasks = adapted_losses(
        model,
        start,
        lambda i, gradient: rates[i] * gradient,
        batch,
        steps,
        first_order=algorithm.is_first_order,
        only_head="anil" in name,
        judge=judge,
    )
    total = torch.zeros_like(flat)
    for i, (phi, loss) in enumerate(tasks):
        if name == "reptile":
            parts = [(a - b) / INNER_LR for a, b in zip(start, phi, strict=True)]
        elif name == "joint":
            x, y = torch.cat([batch.support_x[i], batch.query_x[i]]), torch.cat([batch.support_y[i], batch.query_y[i]])
            output = functional_call(model, dict(zip(dict(model.named_parameters()), start, strict=True)), (x,))
            parts = list(torch.autograd.grad(judge(output, y), start))
        else:
            # Inner gradients enter as constants where the graph was cut, so this is exact for both orders.
            held = [value.detach() for value in phi]
            if algorithm.is_first_order:
                held = [value.requires_grad_() for value in held]
                parts = list(torch.autograd.grad(query_loss(model, held, batch, i, judge), held))
                if "meta-sgd" in name:
                    moved = [(a - b).detach() / r.detach() for a, b, r in zip(start, phi, rates, strict=True)]
                    parts += [-INNER_LR * g * m for g, m in zip(parts, moved, strict=True)]
            else:
                parts = list(torch.autograd.grad(loss, shaped, allow_unused=True, retain_graph=True))
        total += torch.cat([part.detach().reshape(-1) for part in parts]) / len(tasks)
    return total


def curvature_by_hand(
    model: nn.Module,
    flat: Tensor,
    batch: TaskBatch,
    steps: int,
    judge: Callable[[Tensor, Tensor], Tensor],
    *,
    first_order: bool,
) -> Tensor:
    """Weights `[out, in]` move by M0 G M1', biases by M g; to first order the inner gradients have no graph."""
    shapes = [parameter.shape for parameter in model.parameters()]
    squares = [torch.Size((size, size)) for shape in shapes for size in shape]
    pieces = flat.split([shape.numel() for shape in (*shapes, *squares)])
    learned = [p.reshape(s).clone().requires_grad_() for p, s in zip(pieces, (*shapes, *squares), strict=True)]
    left = iter(learned[len(shapes) :])
    matrices = [[next(left) for _ in shape] for shape in shapes]

    def move(i: int, gradient: Tensor) -> Tensor:
        moved: Tensor = INNER_LR * matrices[i][0] @ gradient
        if len(matrices[i]) == 2:
            moved = moved @ matrices[i][1].T
        return moved

    tasks = adapted_losses(
        model, learned[: len(shapes)], move, batch, steps, first_order=first_order, only_head=False, judge=judge
    )
    gradients = [torch.autograd.grad(loss, learned, retain_graph=True) for _, loss in tasks]
    return torch.stack([torch.cat([part.reshape(-1) for part in parts]) for parts in gradients]).mean(0)


def bilevel_by_hand(
    model: nn.Module, flat: Tensor, batch: TaskBatch, steps: int, judge: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """The finite difference on flat vectors."""
    names, sizes = zip(*((name, p.shape) for name, p in model.named_parameters()), strict=True)
    total, nu, pull = torch.zeros_like(flat), InnerLoop(0.1, 1).perturbation, FirstOrderBilevelMAML.PULL

    def loss(vector: Tensor, x: Tensor, y: Tensor) -> Tensor:
        parts = [p.reshape(s) for p, s in zip(vector.split([s.numel() for s in sizes]), sizes, strict=True)]
        return judge(functional_call(model, dict(zip(names, parts, strict=True)), (x,)), y)

    for sx, sy, qx, qy in zip(*batch, strict=True):

        def descend(start: Tensor, weight: float, task: tuple[Tensor, ...] = (sx, sy, qx, qy)) -> Tensor:
            at = start
            for _ in range(steps):
                at = at.detach().requires_grad_()
                value = loss(at, *task[:2]) + weight * loss(at, *task[2:])
                value = value + pull / INNER_LR / 2 * (at - flat).square().sum()
                at = at - INNER_LR * torch.autograd.grad(value, at)[0]
            return at.detach()

        phi = descend(flat, 0.0)
        total += (descend(phi, -nu) - descend(phi, nu)) * pull / INNER_LR / (2 * nu * (1 - (1 - pull) ** steps))
    return total / batch.support_x.shape[0]


def ridge_by_hand(
    model: nn.Module,
    flat: Tensor,
    batch: TaskBatch,
    judge: Callable[[Tensor, Tensor], Tensor],
    *,
    first_order: bool,
) -> Tensor:
    """Ridge regression for the last layer as least squares on rows for the points and rows for the penalty."""
    sizes = [parameter.numel() for parameter in model.parameters()]
    learned = [part.clone().requires_grad_() for part in flat.split([*sizes, 1, 1])]
    shaped = [part.reshape(like.shape) for part, like in zip(learned, model.parameters(), strict=False)]
    names = [name for name, _ in model.named_parameters()]
    body = nn.Sequential(*list(model.children())[:-1])

    def features(x: Tensor) -> Tensor:
        z = functional_call(body, dict(zip(names[:-2], shaped[:-2], strict=True)), (x,))
        return torch.cat([z, torch.ones_like(z[:, :1])], dim=1)

    total, noise = torch.zeros_like(flat), learned[-1].detach().exp()
    for sx, sy, qx, qy in zip(*batch, strict=True):
        known, asked = features(sx), features(qx)
        start = torch.cat([shaped[-2].T, shaped[-1][None]])  # [width + 1, outputs]
        penalty = learned[-2].exp() + LEAST_PENALTY * known.square().sum(1).mean()
        rows = torch.cat([known, penalty.sqrt() * torch.eye(known.shape[1])])
        right = torch.cat([sy - known @ start, torch.zeros(known.shape[1], sy.shape[1])])
        head = start + torch.linalg.lstsq(rows, right).solution
        held = head.detach().requires_grad_() if first_order else head
        loss = judge(asked @ held, qy)
        parts = list(torch.autograd.grad(loss, learned, allow_unused=True, retain_graph=True))
        if first_order:
            (slope,) = torch.autograd.grad(loss, held)
            parts[-4:-2] = [slope[:-1].T.reshape(-1), slope[-1:].reshape(-1)]
        variance = penalty / learned[-2].exp() * (asked @ torch.linalg.inv(rows.T @ rows) * asked).sum(1)
        error = (asked @ head - qy).square().mean(1)
        parts[-1] = QUIET * 0.5 * (1 - error / (1 + variance) / noise).mean().reshape(1)
        total += torch.cat([torch.zeros(n) if p is None else p for n, p in zip([*sizes, 1, 1], parts, strict=True)])
    return total.detach() / batch.support_x.shape[0]


def query_loss(
    model: nn.Module,
    parameters: list[Tensor],
    batch: TaskBatch,
    task: int,
    judge: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    names = [name for name, _ in model.named_parameters()]
    output = functional_call(model, dict(zip(names, parameters, strict=True)), (batch.query_x[task],))
    return judge(output, batch.query_y[task])


PROBLEMS = {"regression": Sine(), "classification": Circles(classes=3)}
DERIVED = [
    *((name, engine, 3, problem) for name in ALGORITHMS for engine in ENGINES for problem in PROBLEMS),
    *((name, "vectorized", 1, problem) for name in ALGORITHMS for problem in PROBLEMS),
]
COMPILED = [case for case in DERIVED if case[1] == "native"]  # in seconds each, and the more the more there are classes


@pytest.mark.parametrize(
    ("name", "engine_name", "steps", "problem"),
    levels(
        DERIVED,
        lambda case: case not in COMPILED or (case[0] in ("fomaml", "anil") and case[3] == "regression"),
        [
            case
            for case in COMPILED
            if case[0] in ("maml", "fo-meta-curvature", "ridge-head", "anil") and case[3] == "regression"
        ],
    ),
)
def test_meta_gradient_equals_one_derived_with_autograd_alone(
    name: str, engine_name: str, steps: int, problem: str
) -> None:
    family = PROBLEMS[problem]
    model, batch = setup(family)
    algorithm = ALGORITHMS[name]
    engine = ENGINES[engine_name](
        model,
        inner=InnerLoop(INNER_LR, steps),
        meta_optimizer=MetaOptimizer(0.001),
        algorithm=algorithm,
        problem=family.problem,
    )
    state = initial_state(model, algorithm)
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(2, *state.parameters.shape, generator=generator).double()
    state = type(state)(  # rates that differ, and matrices that are not symmetric, so that a mix-up of them shows
        state.parameters * (1 + 0.2 * noise[0]) + 0.02 * noise[1],
        state.exp_avg,
        state.exp_avg_sq,
    )
    after, _ = engine.run(state, TaskBatch(*(tensor[None] for tensor in batch)))
    found = after.exp_avg / 0.1
    expected = by_hand(name, model, state.parameters, batch, steps, family.problem.name)
    assert float((found - expected).norm() / expected.norm()) < 1e-10
    assert expected.norm() > 1e-3


@pytest.mark.parametrize("name", [name for name, a in ALGORITHMS.items() if not a.is_first_order])
def test_second_order_gradients_equal_finite_differences(name: str) -> None:
    model, batch = setup()
    algorithm = ALGORITHMS[name]
    engine = VectorizedEngine(
        model, inner=InnerLoop(INNER_LR, 2), meta_optimizer=MetaOptimizer(0.001), algorithm=algorithm
    )
    flat = initial_state(model, algorithm).parameters
    found = engine.meta_gradient(flat, batch).gradient
    for i in range(0, len(flat), 5):
        nudge = torch.zeros_like(flat)
        nudge[i] = 1e-5
        up, down = engine.meta_gradient(flat + nudge, batch), engine.meta_gradient(flat - nudge, batch)
        assert float((up.post_loss - down.post_loss) / 2e-5) == pytest.approx(float(found[i]), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(("name", "engine"), [("fomaml", "higher"), *((name, "vectorized") for name in ALGORITHMS)])
@pytest.mark.slow
def test_every_algorithm_trains(name: str, engine: str) -> None:
    count = 60 if ALGORITHMS[name].solves else 20  # it learns features only, and is good at the start already
    config = PRESETS["paper-10-shot"].config.with_settings(
        {
            "algorithm": name,
            "engine": engine,
            "inner_steps": 2,
            "meta_iterations": count,
            "meta_lr": 0.01,
            "model.hidden_sizes": [16],
        }
    )
    rows = [row for progress in Trainer(config).run() for row in progress.rows]
    first, last = (sum(row.post_loss for row in part) for part in (rows[: count // 4], rows[-count // 4 :]))
    assert last < first < float("inf")


# Every algorithm and every family in each engine; a family changes nothing in what an engine does, so that not every
# algorithm meets every family.
PAIRS = [
    (list(ALGORITHMS)[i % len(ALGORITHMS)], list(FAMILIES)[i % len(FAMILIES)])
    for i in range(max(len(ALGORITHMS), len(FAMILIES)))
]
MET = [
    (name, family, engine)
    for name, family in PAIRS
    for engine in ENGINES
    if not (engine == "native" and FAMILIES[family].problem.calls > 1)  # which it refuses
]


@pytest.mark.parametrize(
    ("name", "family", "engine_name"),
    levels(MET, lambda case: case[2] == "vectorized", [case for case in MET if case[:2] in PAIRS[::4]]),
)
def test_every_algorithm_and_every_family_lower_the_loss(name: str, family: str, engine_name: str) -> None:
    """The same tasks 20 times, support points as query points: what every algorithm descends on, without luck."""
    algorithm, drawn_from = ALGORITHMS[name], parse_family({"family": family})
    sizes = drawn_from.input_size, drawn_from.output_size
    model = build_model(MLP(hidden_sizes=(6,), activation="tanh"), 3, *sizes)
    stream = TaskStream(drawn_from, meta_batch_size=3, shots=5, query_shots=5, seed=1)
    x, y, _, _ = (tensor.expand(20, *tensor.shape[1:]) for tensor in stream.take(0, 1))
    chunk = TaskBatch(x, y, x, y)
    engine = ENGINES[engine_name](
        model,
        inner=InnerLoop(0.01, 1),
        meta_optimizer=MetaOptimizer(0.01, clip_norm=10.0),
        algorithm=algorithm,
        problem=drawn_from.problem,
    )
    _, rows = engine.run(initial_state(model, algorithm), chunk)
    assert rows.isfinite().all()
    post_loss = rows[:, 1]
    assert post_loss[-1] < 0.99 * post_loss[0]


def test_reptile_without_inner_steps_is_refused_in_one_sentence() -> None:
    with pytest.raises(ConfigError, match="inner_steps = 0 is not allowed with algorithm = reptile"):
        RunConfig.from_dict({"algorithm": "reptile", "inner_steps": 0})


def test_every_algorithm_says_what_it_does() -> None:
    for algorithm in ALGORITHMS.values():
        assert len(type(algorithm).__doc__ or "") > 80
        assert "arXiv:" in algorithm.source
        assert "g" in algorithm.formula
        assert algorithm.title not in [other.title for other in ALGORITHMS.values() if other is not algorithm]


def test_an_algorithm_is_abstract_or_final() -> None:
    """Nothing concrete is a base of something else, so what a class does stands in it or in an abstract base."""
    for algorithm in ALGORITHMS.values():
        for base in type(algorithm).__mro__[1:-2]:
            assert base is object or inspect.isabstract(base), f"{type(algorithm).__name__} overrides {base.__name__}"
        assert getattr(type(algorithm), "__final__", False)


def test_the_reference_refuses_an_algorithm_that_it_does_not_know() -> None:
    class Unheard(FOMAML):  # type: ignore[misc]  # final: a test may
        name = "unheard"

    model, _ = setup()
    with pytest.raises(EngineError, match="does not know algorithm = 'unheard'"):
        ReferenceEngine(model, inner=InnerLoop(0.1, 1), meta_optimizer=MetaOptimizer(0.1), algorithm=Unheard())


@pytest.mark.parametrize("shots", [1, 5, 100])
def test_a_ridge_head_in_float32_stays_exact_and_finite(shots: int) -> None:
    """At the smallest penalty that training reaches, with more points than features, and with points that repeat."""
    model = build_model(MLP(hidden_sizes=(40, 40)), seed=1)
    algorithm = ALGORITHMS["ridge-head"]
    layout = Layout(model, algorithm)
    flat = layout.start(model)
    flat[-2] = -9.0
    batch = TaskStream(Sine(), meta_batch_size=4, shots=shots, query_shots=10, seed=1).take(0, 1).at(0)
    twice = TaskBatch(torch.cat([batch.support_x] * 2, 1), torch.cat([batch.support_y] * 2, 1), *batch[2:])
    for tasks in (batch, twice):
        found = [
            cls(each, inner=InnerLoop(0.1, 1), meta_optimizer=MetaOptimizer(0.001), algorithm=algorithm).meta_gradient(
                flat.to(dtype), TaskBatch(*(tensor.to(dtype) for tensor in tasks))
            )
            for cls, each, dtype in (
                (VectorizedEngine, model, torch.float32),
                (ReferenceEngine, copy.deepcopy(model).double(), torch.float64),
            )
        ]
        single, double = (each.gradient.double() for each in found)
        assert float((single - double).norm() / double.norm()) < 2e-3


def test_a_ridge_head_is_done_after_one_step_whatever_the_rate() -> None:
    config = PRESETS["paper-10-shot"].config.with_settings({"algorithm": "ridge-head"})
    start = config.untrained()
    tasks = config.tasks.held_out(tasks=3, shots=10)
    once, often = start.adapt(tasks, 1), start.at_rate(7.0).adapt(tasks, 4)
    assert torch.equal(once.predictions[1], often.predictions[1])
    torch.testing.assert_close(often.predictions[4], often.predictions[1])
    assert (once.support_loss[1] < once.support_loss[0]).all()


def test_the_deviation_is_that_of_the_normal_distribution_of_heads() -> None:
    """Against 20,000 heads drawn from the posterior in the space of weights."""
    config = PRESETS["paper-10-shot"].config.with_settings({"algorithm": "ridge-head", "model.hidden_sizes": [6]})
    start = config.untrained()
    start.extras["log_penalty"].fill_(-1.0)
    start.extras["log_noise"].fill_(-2.0)
    tasks = config.tasks.held_out(tasks=1, shots=5)
    found = start.deviation(tasks)
    assert found is not None
    loss = Loss(start.model, start.problem)
    known, asked = (
        torch.cat([z, torch.ones(len(z), 1)], 1).double()
        for z in (loss.layer("2", start.parameters, x[0])[0] for x in (tasks.support_x, tasks.query_x))
    )
    precision = (known.T @ known + math.exp(-1) * torch.eye(7)) / math.exp(-2)
    heads = torch.distributions.MultivariateNormal(torch.zeros(7).double(), precision_matrix=precision)
    torch.manual_seed(0)
    seen = heads.sample((20_000,)) @ asked.T
    spread = (seen + math.exp(-1) * torch.randn_like(seen)).std(0)
    torch.testing.assert_close(found[0].double(), spread, rtol=0.03, atol=1e-4)


def test_a_ridge_head_wants_a_linear_last_layer() -> None:
    model = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1), nn.PReLU())
    with pytest.raises(EngineError, match=r"must be nn.Linear: 3 is PReLU; end the model with nn.Linear"):
        VectorizedEngine(
            model, inner=InnerLoop(0.1, 1), meta_optimizer=MetaOptimizer(0.1), algorithm=ALGORITHMS["ridge-head"]
        )


def test_fo_b_maml_is_first_order_maml_after_one_step_and_the_bilevel_gradient_after_many() -> None:
    """On a quadratic, where the bilevel gradient is (I + H / lambda)^-1 grad L_query(phi)."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1, bias=False).double()
    x, y, qx, qy = (torch.randn(1, n, k).double() for n, k in ((6, 3), (6, 1), (5, 3), (5, 1)))
    batch = TaskBatch(x, y, qx, qy)
    theta = model.weight.detach().reshape(-1)

    def gradient(name: str, steps: int, perturbation: float = 1e-4) -> Tensor:
        inner = InnerLoop(0.05, steps, perturbation)
        engine = VectorizedEngine(model, inner=inner, meta_optimizer=MetaOptimizer(0.1), algorithm=ALGORITHMS[name])
        return untraced(engine, theta, batch)

    torch.testing.assert_close(gradient("fo-b-maml", 1), gradient("fomaml", 1), rtol=1e-6, atol=1e-9)
    pull = FirstOrderBilevelMAML.PULL / 0.05
    curve = 2 / 6 * x[0].T @ x[0]
    phi = torch.linalg.solve(curve + pull * torch.eye(3), 2 / 6 * x[0].T @ y[0][:, 0] + pull * theta)
    on_query = 2 / 5 * qx[0].T @ (qx[0] @ phi - qy[0][:, 0])
    exact = torch.linalg.solve(torch.eye(3) + curve / pull, on_query)
    torch.testing.assert_close(gradient("fo-b-maml", 150), exact, rtol=1e-5, atol=1e-8)
    errors = [float((gradient("fo-b-maml", 150, nu) - exact).norm()) for nu in (0.2, 0.1)]
    assert errors[1] == pytest.approx(errors[0] / 4, rel=0.05)  # symmetric: of second order in the perturbation
