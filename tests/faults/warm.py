"""Imported once by the process that test workers are forked from, so that each of them starts warm."""

import torch

from maml_core.training.worker import _warm_up

torch.set_num_threads(1)
_warm_up()
