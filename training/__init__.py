"""What happens inside one rank: data, step, loop and outputs of a fine-tuning run."""
