"""Sweep files, their trials, and the command that runs them."""
