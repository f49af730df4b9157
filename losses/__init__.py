"""Predictions + targets -> named terms -> total."""

from losses.weighted import TERMS, Criterion, LossSpec, parse_terms

__all__ = ["TERMS", "Criterion", "LossSpec", "parse_terms"]
