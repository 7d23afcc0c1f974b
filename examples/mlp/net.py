"""A multilayer perceptron."""

from torch import nn


def build(data, *, hidden: int = 32, layers: int = 2, dropout: float = 0.0):
    """`data.shape` is that of one example, here the number of features; what stands behind the star a sweep may set."""
    parts, inputs = [], data.shape[0]
    for _ in range(layers):
        parts += [nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(dropout)]
        inputs = hidden
    return nn.Sequential(*parts, nn.Linear(inputs, data.classes))
