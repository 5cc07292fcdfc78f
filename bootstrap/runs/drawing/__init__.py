"""Programs of `training` that the head runs with what was learned, and the files they are given."""
