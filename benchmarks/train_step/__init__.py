"""What does a training step of Stable Diffusion 1.5's size take, and what on?"""
