"""A made-up report of a recipe, of a MiniLM's shape, for what shows it."""

import numpy as np

LINEARS = {"q": 0, "k": 0, "v": 0, "attention_output": 1, "intermediate": 2, "output": 3}


def kept_heads(layer, count):
    """Their numbers: other ones than the first."""
    return sorted((7 * head + layer) % 12 for head in range(count))


def report():
    """Three stages; OpenVINO differs in two rows, another engine did not run."""
    draw = np.random.default_rng(0)
    heads = [11, 9, 12, 8, 5, 1]
    neurons = [1200, 1012, 800, 600, 420, 64]
    layers = []
    for i, (kept, wide) in enumerate(zip(heads, neurons, strict=True)):
        shapes = [((384, 384), (32 * kept, 384)), ((384, 384), (384, 32 * kept)), ((1536, 384), (wide, 384)),
                  ((384, 1536), (384, wide))]  # fmt: skip
        for name, kind in LINEARS.items():
            shape, small = shapes[kind]
            nonzero = int(np.prod(small) * draw.uniform(0.3, 1.0))
            layers.append(
                {"name": f"layer.{i}.{name}", "shape": list(shape), "kept_shape": list(small), "nonzero": nonzero}
            )
    ramp = [[update, 0.62 * (1 - (1 - min(update / 5000, 1)) ** 3)] for update in range(0, 6316, 100)]
    history = [{"epoch": e, "loss": 0.4 / e, "accuracy": 89 + e / 2} for e in (1, 2, 3)]
    different = [
        {"row": 17, "text": "a [gorgeous] , witty , seductive movie . </script><b>", "wanted": "positive",
         "ours": "negative", "theirs": "positive", "our_margin": 0.012, "their_margin": 0.0034},
        {"row": 640, "text": "half of it is composed of snappy patter and pseudo-sophisticated cultural observations , "
         "while the remainder would be more at home on a daytime television serial .", "wanted": "negative",
         "ours": "negative", "theirs": "positive", "our_margin": 0.0007, "their_margin": None},
    ]  # fmt: skip
    ran = {"ran": True, "why": "", "products": 36, "in_floats": 0, "layers": {}, "saturates": False, "rows": 872}
    return {
        "version": "0.1.0",
        "command": "refimpl compress minilm-sst2 --task sst2 --data sst2 --recipe jpqd.json -o out",
        "recipe": {
            "name": "prune, then quantize",
            "about": "Heads and neurons by movement, with distillation; then INT8 by quantization-aware training.",
            "stages": [{"kind": "movement", "epochs": 3, "learning_rate": 3e-5}, {"kind": "qat", "epochs": 1},
                       {"kind": "ptq"}],
        },
        "task": "sst2",
        "seed": 0,
        "limit": None,
        "machine": "Intel(R) Xeon(R) Processor @ 2.10GHz",
        "seconds": 5821.4,
        "baseline": {"accuracy": 91.28},
        "stages": [
            {"name": "prune", "seconds": 4100.0, "updates": 6315, "metrics": {"accuracy": 90.48}, "history": history,
             "sparsity": ramp, "notes": ["46 of 72 heads and 4,096 of 9,216 neurons are left"], "tuning": []},
            {"name": "quantization-aware", "seconds": 1500.0, "updates": 2105, "metrics": {"accuracy": 90.60},
             "history": [{"epoch": 1, "loss": float("nan"), "accuracy": 90.60}],
             "sparsity": [[0, 0.62], [2105, 0.62]], "notes": [], "tuning": []},
            {"name": "quantize", "seconds": 3.2, "updates": 0, "metrics": {"accuracy": 90.37}, "history": [],
             "sparsity": [], "notes": ["300 texts calibrate"],
             "tuning": [{"step": "all quantized", "kept": [], "metric": 89.9, "good": False},
                        {"step": "rank layer.0.qkv", "kept": ["layer.0.qkv"], "metric": -0.00123456, "good": False},
                        {"step": "keep layer.0.qkv", "kept": ["layer.0.qkv"], "metric": 90.37, "good": True}]},
        ],
        "layers": layers,
        "heads": [
            {"layer": i, "kept": kept, "kept_heads": kept_heads(i, kept), "of": 12, "neurons": wide, "of_neurons": 1536}
            for i, (kept, wide) in enumerate(zip(heads, neurons, strict=True))
        ],
        "sizes": {
            "files": {"huggingface": 71_566_154, "packed.safetensors": 18_312_960, "model.onnx": 24_081_910},
            "missing": {"openvino": "openvino is not installed; need: python -m pip install openvino"},
            "encoder": {"before": 42_550_272, "dense": 5_782_864, "blocks": 5_496_256, "after": 4_896_256,
                        "ratio": 8.69},
        },
        "engines": [
            {"name": "refimpl", "file": "packed.safetensors", "version": "0.1.0", "integer_layers": 36,
             "execution": "INT8, native kernels, one thread", "metrics": {"accuracy": 90.37}, "different": 0,
             "differences": [], **ran},
            {"name": "ONNX Runtime", "file": "model.onnx", "version": "1.32.0", "integer_layers": 36,
             "execution": "INT8, one thread", "metrics": {"accuracy": 90.48}, "different": 2,
             "differences": different, **ran},
            {"name": "OpenVINO", "file": "openvino/openvino_model.xml", "ran": False,
             "why": "openvino died: SIGSEGV; the last that it printed: nothing"},
        ],
    }  # fmt: skip
