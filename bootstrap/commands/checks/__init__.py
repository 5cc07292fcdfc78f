"""What `fab check` looks at, and the table that it prints."""
