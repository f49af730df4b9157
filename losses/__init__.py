"""What training makes small: predictions and targets -> named terms -> their total."""

from losses.weighted import TERMS, Criterion, OutputLoss, parse_terms
