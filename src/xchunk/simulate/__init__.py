"""What a lazy result would cost: its graph is built and replayed, never run on data."""

from __future__ import annotations

from xchunk.simulate.predict import Prediction, predict

__all__ = ["Prediction", "predict"]
