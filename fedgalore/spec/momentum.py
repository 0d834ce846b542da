"""The field by which a method's section of a job asks for global momentum: `fedgalore.momentum` says what it does."""

from __future__ import annotations

MOMENTUM = (
    "Share of the federation's last step that each client repeats while it trains; its learning rates are multiplied "
    "by the rest. Speeds rounds up at no bytes up; too much overshoots when few clients take part"
)
