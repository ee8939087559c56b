"""The meta-training loop, the processes that run it, and the session that keeps them."""
