"""How good an initialization is: error curves, baselines, published figures, gradients side by side."""
