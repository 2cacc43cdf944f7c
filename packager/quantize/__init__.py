"""Quantised weights, and what they cost in quality."""

from packager.quantize.quantizer import Quantizer
from packager.quantize.search import METHODS

__all__ = ["METHODS", "Quantizer"]
