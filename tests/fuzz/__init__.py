"""Runs with random input, for as long as somebody lets them run."""
