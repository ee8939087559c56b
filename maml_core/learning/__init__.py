"""What is learned, for one task: task families, models, algorithms, the inner loop, and initializations."""

from maml_core.learning import families

__all__ = ["families"]  # imported here, so that every family is registered before the first is looked up
