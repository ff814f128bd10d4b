"""Tiny random models and what Hugging Face transformers computes for them, in f64 with f32 weights.

    python tests/golden/generate_transformers.py

Writes one Hugging Face directory per case beside this file: config.json, model.safetensors and expected.safetensors,
which holds the batch (ids, mask, types: s64 (B, T)) and, in f64 and under the names of our taps, ``embeddings``,
``layer.N.output_norm`` (B, T, D), ``layer.N.probs`` (B, H, T, T) and ``output``. ``wordpiece`` holds a vocabulary and
what ``BertTokenizerFast`` makes of some texts. The seeds are fixed. Needs torch and transformers; the tests read only
the files. Made with torch 2.13 and transformers 5.23.

Weights have a standard deviation of 0.4, far above training's 0.02: attention is peaked, GELU bends, and a swapped
matrix or a forgotten bias shows in the first digit.
"""

import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
BATCH, PAD = 3, 0

BERT_A = dict(  # noqa: C408
    vocab_size=53, hidden_size=32, num_attention_heads=4, num_hidden_layers=2, intermediate_size=64,
    max_position_embeddings=16, type_vocab_size=2,
)  # fmt: skip
BERT_B = dict(  # noqa: C408
    vocab_size=41, hidden_size=48, num_attention_heads=3, num_hidden_layers=1, intermediate_size=40,
    max_position_embeddings=11, type_vocab_size=3, layer_norm_eps=1e-5,
)  # fmt: skip
DISTIL_A = dict(vocab_size=53, dim=32, n_heads=4, n_layers=2, hidden_dim=64, max_position_embeddings=16)  # noqa: C408
DISTIL_B = dict(vocab_size=41, dim=48, n_heads=3, n_layers=1, hidden_dim=40, max_position_embeddings=11)  # noqa: C408
LABELS = {"id2label": {0: "bad", 1: "fair", 2: "good"}, "label2id": {"bad": 0, "fair": 1, "good": 2}}

CASES = {  # name: transformers class, configuration, T
    "bert_classification": ("BertForSequenceClassification", BERT_A | LABELS, 7),
    "bert_question_answering": ("BertForQuestionAnswering", BERT_B, 11),
    "bert_masked_lm": ("BertForMaskedLM", BERT_B, 5),
    "bert_old_names": ("BertModel", BERT_A, 9),
    "distilbert_classification": ("DistilBertForSequenceClassification", DISTIL_A | LABELS, 9),
    "distilbert_question_answering": ("DistilBertForQuestionAnswering", DISTIL_B, 7),
    "distilbert_masked_lm": ("DistilBertForMaskedLM", DISTIL_B, 11),
    "distilbert_bare": ("DistilBertModel", DISTIL_A, 5),
}


def randomize(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Every parameter normal: matrices and biases about 0 with deviation 0.4, norm weights about 1 with 0.2."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        is_norm = "norm" in name.lower() and name.endswith("weight")
        parameter.data = 1 + 0.2 * noise if is_norm else 0.4 * noise


def make_batch(config: transformers.PretrainedConfig, tokens: int, generator: torch.Generator) -> dict:
    """Random ids; row b is padded after T, T - 1 and 2 tokens; token types of every kind."""
    ids = torch.randint(1, config.vocab_size, (BATCH, tokens), generator=generator)
    lengths = torch.tensor([tokens, tokens - 1, 2])
    mask = (torch.arange(tokens) < lengths[:, None]).long()
    types = torch.randint(0, getattr(config, "type_vocab_size", 1), (BATCH, tokens), generator=generator)
    return {"ids": ids * mask + PAD * (1 - mask), "mask": mask, "types": types}


def final(out: transformers.utils.ModelOutput, mask: torch.Tensor) -> torch.Tensor:
    """The head's result; for a bare encoder the normalized mean over tokens, as sentence-transformers defines it."""
    if "start_logits" in out:
        return torch.stack([out.start_logits, out.end_logits], -1)
    if "logits" in out:
        return out.logits
    weights = mask[..., None].to(out.last_hidden_state.dtype)
    mean = (out.last_hidden_state * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
    return torch.nn.functional.normalize(mean, p=2, dim=1, eps=1e-12)


def expected(model: transformers.PreTrainedModel, batch: dict) -> dict:
    """Every tap of the model in f64."""
    arguments = {"input_ids": batch["ids"], "attention_mask": batch["mask"]}
    if model.config.model_type == "bert":
        arguments["token_type_ids"] = batch["types"]
    with torch.no_grad():
        out = model(**arguments, output_hidden_states=True, output_attentions=True)
    values = {"embeddings": out.hidden_states[0], "output": final(out, batch["mask"])}
    for i, (hidden, probs) in enumerate(zip(out.hidden_states[1:], out.attentions, strict=True)):
        values |= {f"layer.{i}.output_norm": hidden, f"layer.{i}.probs": probs}
    assert all(value.dtype == torch.float64 for value in values.values())
    return values


def use_old_names(path: Path) -> None:
    """TensorFlow's gamma and beta, and the buffer that old checkpoints hold; BertModel's names have no prefix."""
    tensors = {}
    for name, value in load_file(path).items():
        tensors[name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")] = value
    positions = tensors["embeddings.position_embeddings.weight"].shape[0]
    save_file(tensors | {"embeddings.position_ids": torch.arange(positions)[None]}, path)


def write_model(name: str, architecture: str, sizes: dict, tokens: int, seed: int) -> None:
    """One case's directory."""
    generator = torch.Generator().manual_seed(seed)
    kind = transformers.BertConfig if architecture.startswith("Bert") else transformers.DistilBertConfig
    model = getattr(transformers, architecture)(kind(**sizes, attn_implementation="eager")).eval()
    randomize(model, generator)
    model.tie_weights()
    model.save_pretrained(HERE / name)
    if name == "bert_old_names":
        use_old_names(HERE / name / "model.safetensors")
    batch = make_batch(model.config, tokens, generator)
    values = batch | expected(model.double(), batch)
    save_file({key: value.contiguous().clone() for key, value in values.items()}, HERE / name / "expected.safetensors")


TEXTS = [
    "The cats sat on the mat.",
    "A naïve café, ÉLAN!",
    "unknownword [MASK] (2024) 漢字 e\u0301",
    "  tabs\tand\nlines  ",
    "don't",
    ["What sat?", "The cat's hat sat on a mat, sat it not?"],
    ["cats", "mats [SEP] hats"],
]
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] a the The cat ##s hat mat sat on it not what and tab line cafe café elan naive"
MARKS = "##e ##l ##a ##n ##v ##ï e É l d ##d t ##t ##o ##' 2 ##0 ##2 ##4 漢 ' . , ! ? ( ) é u ##n ##k w ##w ##r [ ]"


def write_tokenizer() -> None:
    """vocab.txt, tokenizer.json, and per do_lower_case what the fast BERT tokenizer gives for ``TEXTS``."""
    folder = HERE / "wordpiece"
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join([*WORDS.split(), *MARKS.split()]) + "\n", "utf-8")
    cases = {}
    for lower in (True, False):
        tokenizer = transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt"), do_lower_case=lower)
        rows = [tokenizer(*([text] if isinstance(text, str) else text)) for text in TEXTS]
        cases[str(lower).lower()] = [{"ids": row["input_ids"], "types": row["token_type_ids"]} for row in rows]
        if lower:
            tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    text = json.dumps({"texts": TEXTS, "do_lower_case": cases}, ensure_ascii=False, indent=None)
    (folder / "expected.json").write_text(text + "\n", "utf-8")


def main() -> None:
    for seed, (name, (architecture, sizes, tokens)) in enumerate(CASES.items()):
        write_model(name, architecture, sizes, tokens, seed)
    write_tokenizer()


if __name__ == "__main__":
    main()
