"""What a run leaves behind: files, progress, samples, the report."""
