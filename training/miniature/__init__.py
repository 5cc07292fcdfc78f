"""A tiny Stable Diffusion of coloured shapes, small enough to be trained from scratch on a CPU."""
