"""What a person runs: one module a `fab` task."""
