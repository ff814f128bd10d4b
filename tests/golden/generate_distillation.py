"""Distillation losses and their gradients as torch computes them, f64, and NNCF's fake quantization, f64.

    python tests/golden/generate_distillation.py

Writes ``distillation/losses.safetensors``: the inputs, and for each loss ``NAME.value`` and ``NAME.gradient``. The
losses are written as their sources call torch, with autograd for the gradients. ``fake.*`` holds the forward and
backward of NNCF's ``ReferenceQuantize`` written with torch from its formulas, for weights of 255 levels and activations
of 256. Needs torch; the tests read only the file. Made with torch 2.14.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

FOLDER = Path(__file__).parent / "distillation"


def kl(student, teacher, temperature, reduction):
    return (
        F.kl_div(
            F.log_softmax(student / temperature, dim=-1), F.softmax(teacher / temperature, dim=-1), reduction=reduction
        )
        * temperature**2
    )


def soft_cross_entropy(student, teacher, temperature):
    targets = F.softmax(teacher / temperature, dim=-1)
    return (-targets * F.log_softmax(student / temperature, dim=-1)).sum(dim=-1).mean() * temperature**2


def unmatched_inc(student, teacher):
    def not_probabilities(x):
        return (torch.abs(x.sum(dim=-1) - 1.0) > 0.2).any().item()

    s = torch.softmax(student, dim=-1) if not_probabilities(student) else student
    t = torch.softmax(teacher, dim=-1) if not_probabilities(teacher) else teacher
    return F.kl_div(torch.log(s + 1e-9), t, reduction="mean")


def tokens(loss, student, teacher, mask):
    live = mask.bool()
    return loss(student[live], teacher[live])


def losses(s, t, s3, t3, mask, probs_s, probs_t):
    """Name -> function of the student, the student."""
    return {
        "kl_batchmean": (lambda x: kl(x, t, 2.0, "batchmean"), s),
        "kl_element_mean": (lambda x: kl(x, t, 3.0, "mean"), s),
        "soft_cross_entropy": (lambda x: soft_cross_entropy(x, t, 2.0), s),
        "mse_logits": (lambda x: F.mse_loss(x, t), s),
        "mse_inc": (lambda x: F.mse_loss(x / 3, t / 3) * 9, s),
        "start_end": (
            lambda x: (kl(x[..., 0], t3[..., 0], 2.0, "batchmean") + kl(x[..., 1], t3[..., 1], 2.0, "batchmean")) / 2,
            s3,
        ),
        "kl_tokens": (lambda x: tokens(lambda a, b: kl(a, b, 2.0, "batchmean"), x, t3, mask), s3),
        "mse_tokens": (
            lambda x: tokens(lambda a, b: F.mse_loss(a, b, reduction="sum") / a.size(0), x, t3, mask),
            s3,
        ),
        "cosine_tokens": (
            lambda x: tokens(lambda a, b: F.cosine_embedding_loss(a, b, a.new_ones(a.size(0))), x, t3, mask),
            s3,
        ),
        "hidden_mse": (lambda x: F.mse_loss(x, t3), s3),
        "hidden_l1": (lambda x: F.l1_loss(x, t3), s3),
        "l2_distance": (lambda x: torch.dist(x, t3), s3),
        "tempered": (lambda x: soft_cross_entropy(x, t, 2.0) / 4, s),
        "hidden_kl": (lambda x: kl(x, t3, 1.0, "mean"), s3),
        "hidden_kl_unmatched_inc": (lambda x: unmatched_inc(x, t3), s3),
        "hidden_kl_unmatched_inc_probabilities": (lambda x: unmatched_inc(x, probs_t), probs_s),
    }


def nncf_quantize(x, scale, level_low, level_high, dy):
    """Symmetric: forward, grad of x, grad of scale, as in nncf/torch/quantization/reference.py."""
    low = scale * (level_low / level_high)
    width = scale - low
    levels = level_high - level_low + 1
    step = (levels - 1) / width
    output = torch.clip(x, low, low + width) - low
    output = torch.round(output * step - torch.round(-low * step)) / step
    above, below = (x > low + width).to(x.dtype), (x < low).to(x.dtype)
    inside = 1 - above - below
    grad_scale = dy * ((output - x) / width * inside + level_low / level_high * below + above)
    dims = [] if scale.numel() == 1 else [i for i, size in enumerate(scale.shape) if size == 1]
    summed = grad_scale.sum(dims, keepdim=True) if dims else grad_scale.sum().reshape(scale.shape)
    return output, dy * inside, summed


def main():
    torch.manual_seed(0)
    made = {
        "s": torch.randn(5, 7) * 2, "t": torch.randn(5, 7) * 2,
        "s3": torch.randn(3, 4, 2), "t3": torch.randn(3, 4, 2),
        "mask": torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]]),
        "probs_s": torch.softmax(torch.randn(4, 6), -1), "probs_t": torch.softmax(torch.randn(4, 6), -1),
        "matcher": torch.randn(3, 2), "matcher_bias": torch.randn(3), "wide": torch.randn(3, 4, 3),
    }  # fmt: skip
    made = {name: x if name == "mask" else x.double() for name, x in made.items()}
    expected = dict(made)
    names = ("s", "t", "s3", "t3", "mask", "probs_s", "probs_t")
    for name, (loss, student) in losses(*(made[key] for key in names)).items():
        x = student.clone().requires_grad_()
        value = loss(x)
        value.backward()
        expected[f"{name}.value"], expected[f"{name}.gradient"] = value.detach(), x.grad
    x, w, b = (made[key].clone().requires_grad_() for key in ("s3", "matcher", "matcher_bias"))
    value = F.mse_loss(F.linear(x, w, b), made["wide"])
    value.backward()
    expected |= {"matched.value": value.detach(), "matched.gradient": x.grad, "matched.d_weight": w.grad}
    expected["matched.d_bias"] = b.grad
    x, dy = torch.randn(4, 9).double(), torch.randn(4, 9).double()
    expected |= {"fake.x": x, "fake.dy": dy}
    for name, scale, low in (
        ("weight", torch.tensor([[0.7], [1.5], [5.0], [0.1]]), -127),
        ("activation", torch.tensor([1.0]), -128),
    ):
        y, dx, dscale = nncf_quantize(x, scale.double(), low, 127, dy)
        expected |= {f"fake.{name}.scale": scale.double(), f"fake.{name}.y": y, f"fake.{name}.dx": dx}
        expected[f"fake.{name}.dscale"] = dscale
    FOLDER.mkdir(exist_ok=True)
    save_file({name: x.contiguous() for name, x in expected.items()}, FOLDER / "losses.safetensors")


if __name__ == "__main__":
    main()
