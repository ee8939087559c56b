"""The task families, with the definitions of the literature. Each is one class: its parameters and its function.

MMAML is arXiv:1812.07172, appendix B; harmonic tasks are those of torchmeta; Gaussian processes those of neural
processes (arXiv:1807.01622).
"""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from maml_core.fields import Real
from maml_core.learning.control import Navigation, Steering
from maml_core.learning.formula import FormulaFamily
from maml_core.learning.generated import FunctionFamily
from maml_core.learning.glyphs import Glyphs
from maml_core.learning.own_images import OwnImages
from maml_core.learning.plane import Circles, Spiral
from maml_core.learning.table_tasks import TableFamily
from maml_core.learning.tasks import Normal, Uniform

__all__ = [
    "AbsoluteValue",
    "Circles",
    "FormulaFamily",
    "GaussianProcess",
    "Glyphs",
    "Harmonic",
    "Line",
    "Mixture",
    "Navigation",
    "OwnImages",
    "Quadratic",
    "Sine",
    "Spiral",
    "Steering",
    "TableFamily",
    "Tanh",
]  # all that a configuration can name, wherever they are written

FREQUENCIES = 256
"""That are tried where a wave's own is to be found."""

_WIDE = Uniform(low=-3.0, high=3.0)


class Line(FunctionFamily):
    """Straight lines y = slope x + intercept."""

    title: ClassVar[str] = "Lines"
    latex: ClassVar[str] = r"y = \text{slope}\cdot x + \text{intercept}"

    family: Literal["line"] = "line"
    slope: Normal = Field(Normal(mean=0.0, std=1.0), description="Slope of each task's line.")
    intercept: Normal = Field(Normal(mean=0.0, std=1.0), description="Intercept of each task's line.")

    def function(self, x: Tensor, **parameters: Tensor) -> Tensor:
        """The line at `x`."""
        return parameters["slope"] * x + parameters["intercept"]

    def basis(self, x: Tensor) -> Tensor:
        """x and one."""
        return torch.cat([x, torch.ones_like(x)], dim=-1)[None]


class Sine(FunctionFamily):
    """Sine waves y = amplitude sin(frequency x - phase).

    The defaults are the regression tasks of arXiv:1703.03400, section 5.1; a fixed phase of 0 with a range
    for the frequency gives the amplitude-and-frequency set-up.
    """

    title: ClassVar[str] = "Sine waves"
    latex: ClassVar[str] = r"y = \text{amplitude}\cdot\sin(\text{frequency}\cdot x - \text{phase})"

    family: Literal["sine"] = "sine"
    amplitude: Uniform = Field(Uniform(low=0.1, high=5.0), description="Amplitude of each task's wave.")
    frequency: Uniform = Field(Uniform(low=1.0, high=1.0), description="Angular frequency of each task's wave.")
    phase: Uniform = Field(Uniform(low=0.0, high=math.pi), description="Phase of each task's wave, in radians.")

    def function(self, x: Tensor, **parameters: Tensor) -> Tensor:
        """The wave at `x`."""
        return parameters["amplitude"] * torch.sin(parameters["frequency"] * x - parameters["phase"])

    def basis(self, x: Tensor) -> Tensor:
        """Sine and cosine, at each of many frequencies of the range."""
        low, high = self.frequency.span
        waves = torch.linspace(low, high, FREQUENCIES if high > low else 1, dtype=x.dtype)
        angles = x * waves.reshape(-1, *[1] * x.ndim)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class Quadratic(FunctionFamily):
    """Parabolas y = ±curvature (x - center)^2 + intercept, as in MMAML."""

    title: ClassVar[str] = "Parabolas"
    latex: ClassVar[str] = r"y = \pm\text{curvature}\cdot(x - \text{center})^2 + \text{intercept}"

    family: Literal["quadratic"] = "quadratic"
    curvature: Uniform = Field(Uniform(low=0.02, high=0.15), description="How strongly each parabola bends.")
    center: Uniform = Field(_WIDE, description="Where each parabola turns.")
    intercept: Uniform = Field(_WIDE, description="Value at the turning point.")
    sign: Uniform = Field(Uniform(low=-1.0, high=1.0), description="Its sign decides whether a parabola opens upward.")

    def function(self, x: Tensor, **parameters: Tensor) -> Tensor:
        """The parabola at `x`."""
        up = torch.where(parameters["sign"] < 0, -1.0, 1.0)
        return up * parameters["curvature"] * (x - parameters["center"]) ** 2 + parameters["intercept"]


class Tanh(FunctionFamily):
    """Steps y = slope tanh(x - center) + intercept, as in MMAML."""

    title: ClassVar[str] = "Hyperbolic tangents"
    latex: ClassVar[str] = r"y = \text{slope}\cdot\tanh(x - \text{center}) + \text{intercept}"

    family: Literal["tanh"] = "tanh"
    slope: Uniform = Field(_WIDE, description="Height and direction of each step.")
    center: Uniform = Field(_WIDE, description="Where each step is.")
    intercept: Uniform = Field(_WIDE, description="Value in the middle of the step.")

    def function(self, x: Tensor, **parameters: Tensor) -> Tensor:
        """The step at `x`."""
        return parameters["slope"] * torch.tanh(x - parameters["center"]) + parameters["intercept"]


class AbsoluteValue(FunctionFamily):
    """Corners y = slope abs(x - center) + intercept, as in MMAML."""

    title: ClassVar[str] = "Absolute values"
    latex: ClassVar[str] = r"y = \text{slope}\cdot|x - \text{center}| + \text{intercept}"

    family: Literal["absolute-value"] = "absolute-value"
    slope: Uniform = Field(_WIDE, description="Steepness and direction of each corner.")
    center: Uniform = Field(_WIDE, description="Where each corner is.")
    intercept: Uniform = Field(_WIDE, description="Value at the corner.")

    def function(self, x: Tensor, **parameters: Tensor) -> Tensor:
        """The corner at `x`."""
        return parameters["slope"] * (x - parameters["center"]).abs() + parameters["intercept"]


class Harmonic(FunctionFamily):
    """Two harmonics y = a1 sin(w x + b1) + a2 sin(2 w x + b2), as in torchmeta, with inputs from one fixed range."""

    title: ClassVar[str] = "Harmonics"
    latex: ClassVar[str] = r"y = a_1\sin(\omega x + b_1) + a_2\sin(2\omega x + b_2)"

    family: Literal["harmonic"] = "harmonic"
    x: Uniform = Field(Uniform(low=-4.0, high=4.0), description="Inputs are drawn uniformly from this range.")
    first_amplitude: Normal = Field(Normal(mean=0.0, std=1.0), description="Amplitude of the lower harmonic.")
    second_amplitude: Normal = Field(Normal(mean=0.0, std=1.0), description="Amplitude of the higher harmonic.")
    frequency: Uniform = Field(Uniform(low=5.0, high=7.0), description="Angular frequency of the lower harmonic.")
    first_phase: Uniform = Field(Uniform(low=0.0, high=2 * math.pi), description="Phase of the lower harmonic.")
    second_phase: Uniform = Field(Uniform(low=0.0, high=2 * math.pi), description="Phase of the higher harmonic.")

    def function(self, x: Tensor, **parameters: Tensor) -> Tensor:
        """The sum of both at `x`."""
        angle = parameters["frequency"] * x
        low = parameters["first_amplitude"] * torch.sin(angle + parameters["first_phase"])
        return low + parameters["second_amplitude"] * torch.sin(2 * angle + parameters["second_phase"])


class GaussianProcess(FunctionFamily):
    """Draws from a Gaussian process with an RBF kernel, by 128 random Fourier features (Rahimi and Recht, 2007).

    y = scale sqrt(2 / M) sum_k cos(w_k x / length + b_k) with w_k standard normal and b_k uniform: a whole function,
    so that support, query and grid see the same one. `draw` decides the w_k and b_k.
    """

    title: ClassVar[str] = "Gaussian process"
    latex: ClassVar[str] = r"y \sim \mathcal{GP}\left(0,\ \text{scale}^2 e^{-(x-x')^2/2\,\text{length}^2}\right)"
    features: ClassVar[int] = 128

    family: Literal["gaussian-process"] = "gaussian-process"
    x: Uniform = Field(Uniform(low=-2.0, high=2.0), description="Inputs are drawn uniformly from this range.")
    noise: Real = Field(0.02, ge=0, le=1e3, description="Standard deviation of the noise added to values.")
    length: Uniform = Field(Uniform(low=0.1, high=0.6), description="Length scale of the kernel.")
    scale: Uniform = Field(Uniform(low=0.1, high=1.0), description="Standard deviation of the values.")
    draw: Uniform = Field(Uniform(low=0.0, high=1.0), description="Which function of the process it is.")

    def function(self, x: Tensor, **parameters: Tensor) -> Tensor:
        """The function at `x`; the fractional parts of large multiples of `draw` serve as its random numbers."""
        k = torch.arange(1, 2 * self.features + 1, dtype=x.dtype, device=x.device)
        u = (parameters["draw"] * (1e5 * torch.sqrt(k + 0.5) + 7919 * k)).remainder(1.0)
        frequency = torch.special.ndtri(u[..., : self.features].clamp(1e-6, 1 - 1e-6))
        phase = 2 * math.pi * u[..., self.features :]
        waves = torch.cos(x * frequency / parameters["length"].abs().clamp(min=1e-3) + phase)
        return parameters["scale"] * math.sqrt(2 / self.features) * waves.sum(-1, keepdim=True)


class Mixture(FunctionFamily):
    """Each task from one of five families (sine, line, parabola, step, corner), with noise, as in MMAML."""

    title: ClassVar[str] = "Mixture of families"
    latex: ClassVar[str] = r"y \in \{\text{sine},\ \text{line},\ \text{parabola},\ \text{step},\ \text{corner}\}"

    family: Literal["mixture"] = "mixture"
    noise: Real = Field(0.3, ge=0, le=1e3, description="Standard deviation of the noise added to values.")
    component: Uniform = Field(
        Uniform(low=0.0, high=5.0), description="Its whole part picks: 0 sine, 1 line, 2 parabola, 3 step, 4 corner."
    )
    amplitude: Uniform = Field(Uniform(low=0.1, high=5.0), description="Amplitude of a sine.")
    phase: Uniform = Field(Uniform(low=0.0, high=math.pi), description="Phase of a sine.")
    slope: Uniform = Field(_WIDE, description="Slope of a line, step or corner.")
    center: Uniform = Field(_WIDE, description="Where a parabola, step or corner is.")
    intercept: Uniform = Field(_WIDE, description="Value there.")
    curvature: Uniform = Field(Uniform(low=0.02, high=0.15), description="How strongly a parabola bends.")

    def function(self, x: Tensor, **parameters: Tensor) -> Tensor:
        """The chosen family's curve at `x`."""
        slope, intercept, shifted = parameters["slope"], parameters["intercept"], x - parameters["center"]
        up = torch.where(slope < 0, -1.0, 1.0)
        curves = [
            parameters["amplitude"] * torch.sin(x - parameters["phase"]),
            slope * x + intercept,
            up * parameters["curvature"] * shifted**2 + intercept,
            slope * torch.tanh(shifted) + intercept,
            slope * shifted.abs() + intercept,
        ]
        pick = parameters["component"].floor().clamp(0, len(curves) - 1)
        chosen = curves[0]
        for number, curve in enumerate(curves[1:], start=1):
            chosen = torch.where(pick == number, curve, chosen)
        return chosen
