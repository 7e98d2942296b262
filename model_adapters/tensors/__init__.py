"""From images and values to tensors, and from tensors to findings: what the ways to run a model
share that is fed with tensors."""
