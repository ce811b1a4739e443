"""A small network for the tests, and the benchmarks' made-up weights and pictures for it."""

from benchmarks.weights import synthetic_image, synthetic_tensors
from tinymixnet.engine.architecture import Architecture

__all__ = ["TINY", "synthetic_image", "synthetic_tensors"]

# Small enough to run in milliseconds, with every feature of the block strings, and with channel
# counts that split unevenly (S, M and L have none): 10 into 3 kernel sizes, 15 into 2 groups.
TINY = Architecture(
    variant="tiny",
    block_strings=(
        "r1_k3_a1_p1_s11_e1_i5_o5",
        "r2_k3.5.7_a1.1_p1.1_s22_e2_i5_o7",
        "r1_k3.5.7.9.11_a1_p1.1_s22_e3_i7_o9_se0.5_sw",
        "r2_k3.5_a1.1_p1_s11_e3_i9_o9_se0.25_sw",
    ),
    stem_filters=5,
    head_filters=16,
    classes=6,
)
