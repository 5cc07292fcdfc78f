"""What a step learns from: pictures, encoded once; prompts; samples drawn by number."""
