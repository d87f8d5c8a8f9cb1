"""Measure how blur harms vision networks, train networks that withstand it, and deblur."""

__version__ = "0.1.0"
