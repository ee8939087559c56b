"""First-order meta-learning on few-shot regression: the library behind the lab. It knows no screen."""
