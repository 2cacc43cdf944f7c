"""Quantised weights, and what they cost in quality."""

from packager.quantize.method import METHODS, quantization
from packager.quantize.quantizer import Quantizer

__all__ = ["METHODS", "Quantizer", "quantization"]
