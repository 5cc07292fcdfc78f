"""Paired measurements, each a module with one question. Each ends with one line of JSON."""
