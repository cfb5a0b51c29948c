"""How samples are judged: arrays in, numbers out; no networks."""

from marble.metrics.two_sample import nearest_neighbour_accuracy

__all__ = ["nearest_neighbour_accuracy"]
