"""What training makes small.

Predictions + targets -> named terms -> total.
"""

from losses.weighted import TERMS, Criterion, OutputLoss, parse_terms

__all__ = ["TERMS", "Criterion", "OutputLoss", "parse_terms"]
