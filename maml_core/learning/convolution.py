"""A small convolutional network, for images that come as flat rows of pixels."""

import math
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from maml_core.errors import ConfigError
from maml_core.fields import Integer
from maml_core.learning.models import ModelSpec


class AsImage(nn.Module):
    """Rows of pixels as gray images."""

    def __init__(self, side: int) -> None:
        """Images are `side` pixels wide, and as high."""
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """`[..., side * side]` to `[..., 1, side, side]`."""
        return x.reshape(*x.shape[:-1], 1, self.side, self.side)

    def extra_repr(self) -> str:
        """What it was made from."""
        return str(self.side)


class Conv(ModelSpec):
    """Convolutions of stride 2, each followed by a normalization and a ReLU, and a linear layer on what they leave.

    As in arXiv:1703.03400, section 5.2, but for the normalization: theirs takes the mean and the deviation over the
    whole batch of points that is asked about (batch normalization without running averages), so that what is said of
    one image depends on the others. `layer` takes them over each image's own channels and pixels (arXiv:1607.06450),
    so that one image is answered as a hundred are; `none` takes none. Batch statistics are not offered.
    """

    title: ClassVar[str] = "Convolutional network"

    kind: Literal["conv"] = "conv"
    channels: Integer = Field(32, ge=1, le=512, description="Filters of each convolution, of 3 times 3 pixels.")
    blocks: Integer = Field(3, ge=1, le=5, description="Convolutions, each of which halves the image's sides.")
    normalization: Literal["layer", "none"] = Field(
        "layer",
        description="layer: each image's channels and pixels are brought to mean 0 and deviation 1, by that image "
        "alone. none: they are left as they are. No statistics are taken over a batch.",
    )

    def check_sizes(self, input_size: int) -> None:
        """Refuse points that are no images.

        Raises:
            ConfigError: the inputs are no square.
        """
        if math.isqrt(input_size) ** 2 != input_size or input_size < 16:
            raise ConfigError(
                f"model.kind = conv is not allowed with tasks of {input_size} "
                f"{'input' if input_size == 1 else 'inputs'}: it takes square images, of 16 pixels or more; choose mlp."
            )

    def layers(self, input_size: int, output_size: int) -> nn.Module:
        """The convolutions, then a linear layer on all of their channels and pixels."""
        self.check_sizes(input_size)
        modules: list[nn.Module] = [AsImage(math.isqrt(input_size))]
        for before, side in zip((1, *[self.channels] * (self.blocks - 1)), self._sides(input_size), strict=True):
            modules.append(nn.Conv2d(before, self.channels, kernel_size=3, stride=2, padding=1))
            if self.normalization == "layer" and self.channels * side**2 > 1:  # of one number there is no deviation
                modules.append(nn.GroupNorm(1, self.channels))
            modules.append(nn.ReLU())
        return nn.Sequential(*modules, nn.Flatten(-3), nn.Linear(self._left(input_size), output_size))

    def hidden_numbers(self, input_size: int) -> int:
        """Those of all channels and pixels, after each convolution."""
        return self.channels * sum(side**2 for side in self._sides(input_size))

    def multiplications(self, parameters: int, input_size: int) -> int:
        """A filter is laid on every place, so that there are more of them than parameters."""
        before, found = 1, parameters
        for side in self._sides(input_size):
            found += 9 * before * self.channels * (side**2 - 1)
            before = self.channels
        return found

    def _sides(self, input_size: int) -> list[int]:
        """Of the images after each convolution."""
        sides = [math.isqrt(input_size)]
        for _ in range(self.blocks):
            sides.append((sides[-1] + 1) // 2)
        return sides[1:]

    def _left(self, input_size: int) -> int:
        """How many numbers the last convolution leaves."""
        return int(self.channels * self._sides(input_size)[-1] ** 2)
