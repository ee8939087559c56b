"""Images of a new task, from files: some whose classes are known, by the folders they lie in, and some to be named."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from maml_core.errors import ConfigError
from maml_core.learning.image_files import read_new_images
from maml_core.learning.image_tables import is_bright
from maml_core.learning.images import ImageFamily, resized
from maml_core.learning.own_images import OwnImages
from maml_core.learning.tasks import TaskBatch

MOST_NEW_IMAGES = 2000


@dataclass(frozen=True, eq=False)
class NewImages:
    """A task of a user's own images."""

    classes: list[str]
    files: list[str]  # to be named
    batch: TaskBatch  # [1, points, features]; what is known of the query's classes is nothing


def read_images_task(family: ImageFamily, support: Path, query: Path) -> NewImages:
    """The images below the folder `support`, with a folder for each class, and those below `query`, to be named.

    Raises:
        ConfigError: there are fewer than two classes, or more than the run has ways, or an image cannot be read; or the
            run is on a table that is not at hand.
    """
    known, asked = read_new_images(support), read_new_images(query)
    for place, images in ((support, known), (query, asked)):
        if len(images) > MOST_NEW_IMAGES:
            raise ConfigError(
                f"{place} holds {len(images):,} images: at most {MOST_NEW_IMAGES:,} are allowed; take some."
            )
    classes = sorted({image.folder for image in known})
    loose = next((image.path for image in known if not image.folder), None)
    if len(classes) < 2 or loose:
        raise ConfigError(
            f"{support} must hold a folder of images for each of at least two classes, and nothing beside them"
            f"{f', such as {loose}' if loose else ''}."
        )
    if len(classes) > family.classes:
        raise ConfigError(
            f"{support} has {len(classes)} classes, and this run tells {family.classes} apart (tasks.classes): leave "
            "some out, or train a run with more."
        )
    shades = np.stack([image.shades for image in (*known, *asked)])
    if family.inverts if isinstance(family, OwnImages) else is_bright(shades):
        shades = 255 - shades
    x = resized(torch.from_numpy(shades), family.size).flatten(1).float() / 255
    y = torch.zeros(len(shades), family.classes)
    for number, image in enumerate(known):
        y[number, classes.index(image.folder)] = 1
    batch = TaskBatch.split(x[None], y[None], len(known))
    return NewImages(classes, [image.path for image in asked], batch)
