"""What a network is, in words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Description:
    """What a reader wants to know of a backbone.

    Attributes
    ----------
    name, weights, preprocessing : str
    input_size : (int, int)
        Height and width in pixels.
    outputs : dict of str to str
        Layer → "7 x 7 cells of 32 px, 1280 neurons".
    parameters : int
        Number of weights up to the last layer given.
    """

    name: str
    weights: str
    input_size: tuple[int, int]
    outputs: dict[str, str]
    parameters: int
    preprocessing: str

    def __str__(self) -> str:
        height, width = self.input_size
        outputs = "; ".join(f"layer {layer}: {text}" for layer, text in self.outputs.items())
        return (
            f"{self.name} ({self.weights} weights, {self.parameters:,} parameters). Input: "
            f"{height} × {width} px RGB, {self.preprocessing}. Output: {outputs}."
        )
