"""Stores: reading layouts, tracing variables, making, committing and cleaning targets."""
