"""Jobs, which need only a configuration and a work directory: training, and the estimate of what it takes."""
