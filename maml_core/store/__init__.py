"""What is kept: runs, metrics, checkpoints; and how a run leaves one store and enters another."""
