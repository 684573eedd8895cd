"""A run while it trains: its state, a step, batches on the devices, the log, checkpoints."""
