"""Operands that others published because an engine returned something unexpected for them: u8 or s8 by s8.

Sources. oneDNN: doc/advanced/int8_computations.md, also mkl-dnn #518. pytorch #44939. onnxruntime #16105, whose author
saw the result change between the weights -80 and -81. onnxruntime #7524, MatMulInteger, of which the raw product is
taken (zero points 42 and -26 add 26 sum a - 42 sum w - 3276). oneDNN #476, s8 x s8, the source shifted by 128.
"""

import numpy as np

ONEDNN_DOCUMENT = "oneDNN, doc/advanced/int8_computations.md"

U8S8: dict[str, tuple[str, list[list[int]], list[list[int]]]] = {
    "published_onednn_document": (ONEDNN_DOCUMENT, [[255, 255]], [[127, 127]]),
    "published_pytorch_44939": ("pytorch/pytorch #44939", [[211, 171]], [[71, 107]]),
    "published_onnxruntime_16105": (
        "microsoft/onnxruntime #16105",
        [[210, 198, 234]],
        [[-81, -80, 127], [-80, -80, 127]],
    ),
    "published_onnxruntime_7524": (
        "microsoft/onnxruntime #7524; with its zero points column 2 is 40214 41351 36548, pair-saturating 34491 35057"
        " 32465",
        [[238, 115, 94], [245, 111, 102], [158, 225, 48]],
        [[25, 42, -81], [36, -123, -86], [125, 76, 35]],
    ),
}
"""Name -> source, a (N, K), w (M, K)."""

S8S8: dict[str, tuple[str, list[list[int]], list[list[int]]]] = {
    "published_onednn_document": (ONEDNN_DOCUMENT, [[127, 127]], [[127, 127]]),
    "published_onednn_476": (
        "uxlfoundation/oneDNN #476",
        [[-47, -123, -10, 92], [-96, -38, 82, 40], [70, -60, -66, -127], [-46, -91, 109, 101]],
        [[124, -40, 103, 24], [8, 4, -84, 115], [-74, -50, 88, 123], [32, -84, -66, 54]],
    ),
}
"""The same with a s8."""


def arrays(a: list[list[int]], w: list[list[int]], activation: type) -> tuple[np.ndarray, np.ndarray]:
    """a of the type given, w s8."""
    return np.array(a, activation), np.array(w, np.int8)
