"""What a person runs: one module per `fab` task."""
