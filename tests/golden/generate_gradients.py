"""Gradients of the golden models as transformers and torch's autograd take them, in f64, and two losses.

    python tests/golden/generate_gradients.py

Writes ``NAME/gradients.safetensors`` for the models of ``generate_transformers``: ``dy``, f64, drawn at random but 0 at
padding (transformers gives the row of [PAD] in the word table no gradient of its own, whatever comes in), and the
gradient of <dy, output> with respect to each parameter that has one, rounded to f32, under the parameter's name. And
``gradients/losses.safetensors``: logits, labels, and the value and gradient of torch's cross entropy (ignore_index
-100) and of BertForQuestionAnswering's loss, f64. Needs torch and transformers; the tests read only the files.
"""

from pathlib import Path

import torch
import transformers
from generate_transformers import CASES, final
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent


def write_gradients(name: str, architecture: str) -> None:
    """One model's."""
    model = getattr(transformers, architecture).from_pretrained(HERE / name, attn_implementation="eager")
    model = model.double().eval()
    batch = load_file(HERE / name / "expected.safetensors")
    arguments = {"input_ids": batch["ids"], "attention_mask": batch["mask"]}
    if model.config.model_type == "bert":
        arguments["token_type_ids"] = batch["types"]
    y = final(model(**arguments), batch["mask"])
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    if y.ndim == 3:
        dy *= batch["mask"][..., None]
    (y * dy).sum().backward()
    found = {key: p.grad.float().contiguous() for key, p in model.named_parameters() if p.grad is not None}
    save_file({"dy": dy} | found, HERE / name / "gradients.safetensors")


def write_losses() -> None:
    """Cross entropy, two of six labels ignored; and answers, one of them outside its text."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn((2, 3, 5), generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.tensor([[4, -100, 0], [2, 2, -100]])
    value = torch.nn.functional.cross_entropy(x.reshape(-1, 5), labels.reshape(-1))
    value.backward()
    tensors = {"x": x.detach(), "labels": labels, "value": value.detach(), "gradient": x.grad}
    logits = torch.randn((3, 6, 2), generator=generator, dtype=torch.float64).requires_grad_()
    starts, ends = torch.tensor([0, 3, 9]), torch.tensor([5, 4, 1])
    inside = [places.clamp(0, 6) for places in (starts, ends)]  # as modeling_bert does, with 6 to be ignored
    parts = [
        torch.nn.functional.cross_entropy(logits[..., i], places, ignore_index=6) for i, places in enumerate(inside)
    ]
    answers = sum(parts) / 2
    answers.backward()
    tensors |= {"logits": logits.detach(), "starts": starts, "ends": ends}
    tensors |= {"answers.value": answers.detach(), "answers.gradient": logits.grad}
    (HERE / "gradients").mkdir(exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, HERE / "gradients" / "losses.safetensors")


if __name__ == "__main__":
    for case, (architecture, *_) in CASES.items():
        write_gradients(case, architecture)
    write_losses()
