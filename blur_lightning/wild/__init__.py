"""Pairs of blurry and sharp images made from videos."""
