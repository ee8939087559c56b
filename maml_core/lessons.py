"""Short lessons, each a question to answer before the lab shows what happens."""

from dataclasses import dataclass, field
from typing import Any

from maml_core.config import RunConfig
from maml_core.errors import ConfigError
from maml_core.presets import PRESETS


@dataclass(frozen=True)
class Lesson:
    """A configuration to train, what to think about first, and what it shows."""

    title: str
    text: str
    preset: str
    question: str
    answers: tuple[str, ...]
    right: int  # which of the answers
    explanation: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> RunConfig:
        """What is trained."""
        return PRESETS[self.preset].config.with_settings(self.settings)


def _reached(preset: str) -> str:
    reached = PRESETS[preset].reached
    return reached.in_short() if reached else "not measured"


LESSONS: dict[str, Lesson] = {
    "initialization": Lesson(
        title="What an initialization is",
        text="Ten pink points of a wave are known, the dashed rest of it is not. A network that starts anywhere takes "
        "five gradient steps on the points: you see it miss. Training changes nothing but where it starts.",
        preset="first-run",
        question="After training, the network takes five steps on the points of a wave that it has never seen. "
        "Its orange curve, before the first step, will be…",
        answers=(
            "already close to the wave",
            "far from the wave, but the five steps reach it",
            "far from the wave, and the five steps miss it as before",
        ),
        right=1,
        explanation="The initialization fits no wave: look at the orange curve. It lies where five steps reach any of "
        "them. In the picture *Where tasks adapt to, from there*, all arms go one way before training; after it, each "
        "task pulls in a direction of its own.",
    ),
    "one-step": Lesson(
        title="Why one step suffices",
        text="Here training allows a single gradient step on ten points, and asks for the best start for that.",
        preset="paper-10-shot",
        question="How much of its error will one step take away, on a wave that it has never seen?",
        answers=("about a tenth", "about half", "about nine tenths"),
        right=2,
        explanation="An ordinary start gains a few percent by one step of this size. Training has found a place where "
        "the gradient of ten points says which wave it is, and where the step lands: a few directions, shared by all "
        f"tasks. This recipe reached {_reached('paper-10-shot')} on unseen waves, where predicting nothing costs about "
        "4. See *Which layers move*: one step changes the weights by a few percent.",
    ),
    "first-order": Lesson(
        title="Why first order is nearly enough, and where it is not",
        text="MAML differentiates through its inner steps, which takes second derivatives. First-order MAML takes the "
        "gradient where the steps end, and applies it where they began.",
        preset="paper-10-shot",
        question="With one inner step on these waves, how will its error compare with that of MAML, which reached "
        f"{_reached('maml-10-shot')}?",
        answers=("about the same", "twice as high", "ten times as high"),
        right=0,
        explanation=f"It reached {_reached('paper-10-shot')}: over a short step, the way back is nearly the identity. "
        "It is not where the step is long against the curvature: above 1, as the product of inner learning rate and "
        "curvature, the gradient points the wrong way along that direction, and a long training drifts. The Gradients "
        "page shows both directions, by steps and by layer; with more inner steps they part.",
    ),
    "classes": Lesson(
        title="Ten labeled points, and the rest of a spiral",
        text="Meta-learning is not about curves. Here a task is a spiral of two arms, turned by chance: five points of "
        "each arm are labeled (large), and the network is to color the rest (small). Guessing gets half of them.",
        preset="spiral",
        question="Five gradient steps on ten points leave an ordinary start where guessing is: at about half of the "
        "rest. From the start that training finds, the same five steps will get…",
        answers=("about 60 %", "about 75 %", "more than 95 %"),
        right=2,
        explanation=f"This recipe reached {_reached('spiral')}. Before the first step the field says nothing of this "
        "spiral, and it cannot: which arm is which color differs from task to task. What was learned is that there are "
        "spirals; ten points say how this one is turned. *Where it breaks* on the Adapt page winds it tighter than any "
        "in training: then the prior knowledge misleads.",
    ),
    "images": Lesson(
        title="Seen once, and known again",
        text="Here a task is five written characters. The network sees one image of each (above), takes five gradient "
        "steps, and names fifty others (some of them below), each drawn by another hand. It is trained on Latin, "
        "Greek and Cyrillic alphabets; what you see are Japanese characters, of which it has never seen one.",
        preset="glyphs",
        settings={"meta_iterations": 400},
        question="Guessing gets a fifth of them. After 400 meta-iterations, a minute or two, it will name right…",
        answers=("about a third", "about half", "more than four fifths"),
        right=2,
        explanation=f"The whole recipe, ten times as long, reached {_reached('glyphs')}. It has not learned "
        "characters, but what to look at, and what in a drawing may differ without its meaning anything. How much of "
        "that is in the features alone, the Adapt page tells: there the class whose mean is nearest in them, without "
        "any step, stands beside the adapted network, and does better. Then draw five signs of your own there (*My "
        "drawings*), and try *You against the network*.",
    ),
    "control": Lesson(
        title="A goal that nobody tells",
        text="Here a task is a point in the plane that can go anywhere, and a goal (the star) that it does not know: "
        "all it is told is how far from the goal each step ended. It tries twenty times, takes a step of policy "
        "gradient, tries again: three times in all. Standing still has a return of about −38.",
        preset="navigation",
        question="An untrained policy does about as badly as standing still after three such steps. From the start "
        "that training finds, the same three steps of the same rule will bring the mean return to…",
        answers=("about −30", "about −15", "above −8"),
        right=2,
        explanation=f"This recipe reached {_reached('navigation')}. The learned start does not know where the goal is; "
        "look at its paths before the first step. What it has learned is to try in a way that twenty paths tell the "
        "direction, and to be so disposed that one step of policy gradient turns all of them that way. On the Adapt "
        "page, drag the star: outside the square that goals were drawn from, it still goes the right way, and stops "
        "too early or too late.",
    ),
    "no-step": Lesson(
        title="No step at all, and a gradient that cannot be left out",
        text="A ridge head takes no gradient step: the network's last layer is solved for on a task's points, exactly. "
        "What is meta-learned are the features below it. Here the meta-gradient takes that solution for a constant, as "
        "first-order methods take their steps.",
        preset="ridge-10-shot",
        settings={"algorithm": "fo-ridge-head", "meta_iterations": 10_000},
        question="With the derivative of the solution, training reached an error of "
        f"{_reached('ridge-10-shot')}. Without it, the error will be…",
        answers=("about the same", "about three times as high", "more than fifty times as high"),
        right=2,
        explanation="The solved layer answers to every change of the features, and by much: a gradient that holds it "
        "still improves features for a layer that will not be there any more. A step of gradient descent answers "
        "little, which is why first order is nearly enough for MAML. The Gradients page shows both gradients of this "
        "run; *How good, really* on the Adapt page holds a Gaussian process beside it.",
    ),
}


def get_lesson(name: str) -> Lesson:
    """The lesson of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in LESSONS:
        raise ConfigError(f"lesson = {name[:40]!r} is not known: it must be one of {', '.join(LESSONS)}.")
    return LESSONS[name]
