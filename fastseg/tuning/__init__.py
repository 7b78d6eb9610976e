"""Which algorithm a layer takes on which GPU, and how that is measured on the user's own."""

from fastseg.tuning.choice import TuningWarning, choose, forget
from fastseg.tuning.shape_class import pyramid_class, shape_class

__all__ = ["TuningWarning", "choose", "forget", "pyramid_class", "shape_class"]
