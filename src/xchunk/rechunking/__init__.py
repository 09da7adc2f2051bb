"""The rechunk itself: bound, run, resumed, verified and cleaned up."""
