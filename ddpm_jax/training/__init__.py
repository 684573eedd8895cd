"""The parts of a training run: its state, the train step, batches on the devices, the log, checkpoints."""
