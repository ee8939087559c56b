"""Plotly figures from plain arrays, as dictionaries ready for JSON."""

from maml_core.figures.charts import (
    cosine_figure,
    error_curves,
    landscape_figure,
    loss_curve,
    shots_curves,
    shots_grid_figure,
    toy_figure,
)
from maml_core.figures.compare import (
    axes_of,
    compare_curves,
    heat_figure,
    importance_figure,
    parallel_figure,
    scatter_figure,
)
from maml_core.figures.maps import layers_figure, path_figure, star_figure
from maml_core.figures.plane import class_colors
from maml_core.figures.quiz import Quiz, can_quiz, quiz_of
from maml_core.figures.style import COLORS, MAX_POINTS, Figure
from maml_core.figures.tables import classes_grid, rows_grid, rows_per_task, worth_curves, worth_figure
from maml_core.figures.take_away import moving_picture, replay_page
from maml_core.figures.tasks import points_figure, replay_figure, task_figure, task_grid

__all__ = [
    "COLORS",
    "MAX_POINTS",
    "Figure",
    "Quiz",
    "axes_of",
    "can_quiz",
    "class_colors",
    "classes_grid",
    "compare_curves",
    "cosine_figure",
    "error_curves",
    "heat_figure",
    "importance_figure",
    "landscape_figure",
    "layers_figure",
    "loss_curve",
    "moving_picture",
    "parallel_figure",
    "path_figure",
    "points_figure",
    "quiz_of",
    "replay_figure",
    "replay_page",
    "rows_grid",
    "rows_per_task",
    "scatter_figure",
    "shots_curves",
    "shots_grid_figure",
    "star_figure",
    "task_figure",
    "task_grid",
    "toy_figure",
    "worth_curves",
    "worth_figure",
]
