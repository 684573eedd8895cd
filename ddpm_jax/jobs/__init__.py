"""From a configuration and a work directory to a finished job."""
