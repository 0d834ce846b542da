"""The field by which a method's section of a job asks for global momentum: `fedgalore.momentum` says what it does."""

from __future__ import annotations

MOMENTUM = (
    "Share of the last aggregate in every round: clients move along it at each step, learn at what is left of their "
    "rates, and send their own change only (FedCM)"
)
