"""What can be trained: each method behind `training.method.Method`."""
