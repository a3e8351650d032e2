"""What is measured on a card: layers, networks and loss, by name."""

import math
from dataclasses import dataclass

GATES = {"rnn": 1, "gru": 3, "lstm": 4}
CELLS = (("gru", 1024), ("lstm", 1024), ("rnn", 2048))
NETWORKS = (("gru", 1024, 3), ("lstm", 1024, 5), ("rnn", 2048, 5))  # cell, units, layers
BATCHES = (64, 16)
DIRECTIONS = 2
CHANNELS = 32  # of both convolutions
TAPS = (11 * 41, 11 * 21)


@dataclass(frozen=True)
class Layer:
    """A bidirectional recurrent layer over frames of its own width, or a stack of them below and above other layers."""

    cell: str
    hidden: int
    batch: int
    frames: int

    @property
    def name(self) -> str:
        """The name in the journals, without the variant."""
        return f"layer {self.cell} {self.hidden} B{self.batch}"

    @property
    def flop(self) -> int:
        """Operations of the products, forward and backward."""
        return 3 * 2 * self.frames * self.batch * recurrent_products(self.cell, self.hidden, self.hidden)


@dataclass(frozen=True)
class Network:
    """A network with the two standard convolutions and `layers` bidirectional recurrent layers, on one batch."""

    cell: str
    hidden: int
    layers: int
    batch: int
    frames: int = 1000  # of 10 ms
    labels: int = 100
    vocabulary: int = 29
    bins: int = 161

    @property
    def name(self) -> str:
        """The name in the journals, without the variant."""
        return f"{self.layers} x {self.cell} {self.hidden} B{self.batch}"

    @property
    def forward_flop(self) -> int:
        """Operations of the products in a forward pass."""
        return 2 * (self._first_convolution + self._rest)

    @property
    def train_flop(self) -> int:
        """Operations of the products in a training step.

        Each product of the forward pass implies two in the backward pass, but the first convolution needs no input gradient.
        """
        return 2 * (2 * self._first_convolution + 3 * self._rest)

    @property
    def _positions(self) -> int:
        return self.batch * math.ceil(self.frames / 3)

    @property
    def _first_convolution(self) -> int:
        return self._positions * ((self.bins + 1) // 2) * CHANNELS * TAPS[0]

    @property
    def _rest(self) -> int:
        bins = ((self.bins + 1) // 2 + 1) // 2
        second = bins * CHANNELS * TAPS[1] * CHANNELS
        widths = [CHANNELS * bins] + [self.hidden] * (self.layers - 1)
        recurrent = sum(recurrent_products(self.cell, width, self.hidden) for width in widths)
        return self._positions * (second + recurrent + self.hidden * self.vocabulary)


def recurrent_products(cell: str, width: int, hidden: int) -> int:
    """Return the multiplications of a frame of one utterance in a bidirectional layer, forward."""
    return DIRECTIONS * GATES[cell] * hidden * (width + hidden)


@dataclass(frozen=True)
class Loss:
    """A batch of CTC."""

    batch: int = 64
    frames: int = 334
    labels: int = 100
    vocabulary: int = 29


@dataclass(frozen=True)
class Sizes:
    """Everything that is measured; `shrink` divides units, batches and frames, for a trial without a card."""

    shrink: int = 1

    def layers(self, batch: int) -> list[Layer]:
        """Return the layers of a batch size."""
        return [Layer(cell, self._less(hidden), self._less(batch), self._less(336)) for cell, hidden in CELLS]

    def networks(self, batch: int) -> list[Network]:
        """Return the networks of a batch size."""
        sizes = self._less(1000), self._less(100)
        return [
            Network(cell, self._less(hidden), layers, self._less(batch), *sizes) for cell, hidden, layers in NETWORKS
        ]

    @property
    def loss(self) -> Loss:
        """The batch of CTC."""
        return Loss(self._less(64), self._less(334), self._less(100))

    @property
    def product(self) -> int:
        """Rows and columns of the large square product."""
        return self._less(8192)

    @property
    def copy_bytes(self) -> int:
        """Size of the copy."""
        return self._less(2**32)

    def _less(self, size: int) -> int:
        return max(1, size // self.shrink)
