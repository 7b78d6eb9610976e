"""What loading and saving weights raise."""


class CheckpointError(ValueError):
    """A file that cannot be read, is not recognised, or does not fit the model."""
