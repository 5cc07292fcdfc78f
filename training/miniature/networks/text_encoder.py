"""The text encoder: first taught to read a caption's attributes, then frozen."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training.miniature.networks.loop import Schedule, train
from training.miniature.networks.tokenizer import MAX_LENGTH
from training.miniature.scenes.dataset import CLASSES, Corpus, placeholder_id

WIDTH, EMBEDDING_STD = 128, 0.05


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained CLIP text model of three small layers for this vocabulary."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    encoder = CLIPTextModel(config)
    nn.init.normal_(encoder.get_input_embeddings().weight, std=EMBEDDING_STD)
    return encoder


class PlaceholderRows(nn.Module):
    """Computes the embedding of a made-up name from what the named thing looks like.

    The row is E[shape] + A E[colour] + B E[hat's colour], brought to the length of a common
    word's row, with A and B fixed rotations that keep body and hat apart. A plain shape has
    no hat's part.
    """

    turn_color: Tensor
    turn_hat: Tensor
    shape_ids: Tensor
    color_ids: Tensor

    def __init__(self, encoder: CLIPTextModel, tokenizer: CLIPTokenizer) -> None:
        """Look up the attribute words' rows; A and B are the same in every run."""
        super().__init__()
        generator = torch.Generator().manual_seed(1234)
        for name in ("turn_color", "turn_hat"):
            turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator))[0]
            self.register_buffer(name, turn)
        for attribute in ("shape", "color"):
            words = [f"{word}</w>" for word in CLASSES[attribute][:-1]]
            rows = torch.tensor(tokenizer.convert_tokens_to_ids(words))
            self.register_buffer(f"{attribute}_ids", rows)
        self.no_hat = CLASSES["hat"].index("none")
        self.id = placeholder_id(tokenizer)
        self.to(encoder.device)

    def forward(self, table: Tensor, looks: Tensor, noise: float = 0.1) -> Tensor:
        """Rows float32 [batch, width] for looks int64 [batch, 3] from the embedding table.

        `noise` (a share of the row's length) makes the networks forgive a row that is not
        exactly one of these, as one found by textual inversion never is.
        """
        shape, color, hat = looks.unbind(1)
        row = table[self.shape_ids[shape]] + table[self.color_ids[color]] @ self.turn_color
        hat_row = table[self.color_ids[hat.clamp(max=len(self.color_ids) - 1)]] @ self.turn_hat
        row = row + hat_row * (hat != self.no_hat)[:, None]
        length = table[self.color_ids].detach().norm(dim=1).mean()
        row = F.normalize(row, dim=1) + noise * torch.randn_like(row) / WIDTH**0.5
        return row * length


def read(
    encoder: CLIPTextModel, ids: Tensor, rows: PlaceholderRows, looks: Tensor, noise: float = 0.1
) -> Tensor:
    """Hidden states float32 [batch, length, width], with placeholders' rows computed."""
    embedding = encoder.get_input_embeddings()
    computed = rows(embedding.weight, looks, noise)
    places = (ids == rows.id)[:, :, None]

    def replace(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return torch.where(places, computed[:, None, :], output)

    hook = embedding.register_forward_hook(replace)
    try:
        hidden: Tensor = encoder(input_ids=ids).last_hidden_state
    finally:
        hook.remove()
    return hidden


class AttributeReader(nn.Module):
    """One learned attention query and one linear layer for each attribute."""

    def __init__(self) -> None:
        """Untrained queries and layers."""
        super().__init__()
        self.queries = nn.Parameter(torch.randn(len(CLASSES), WIDTH) * WIDTH**-0.5)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, len(c)) for c in CLASSES.values())

    def forward(self, hidden: Tensor) -> list[Tensor]:
        """Logits [batch, classes] for each attribute from hidden states [batch, length, width]."""
        weights = (hidden @ self.queries.T).softmax(dim=1)
        found = weights.transpose(1, 2) @ hidden
        return [layer(found[:, i]) for i, layer in enumerate(self.layers)]


def train_text_encoder(
    tokenizer: CLIPTokenizer,
    corpus: Corpus,
    validation: Corpus,
    *,
    steps: int,
    batch: int = 64,
    learning_rate: float = 1e-3,
    device: str = "cpu",
    checkpoint: Path | None = None,
    resume: bool = False,
) -> CLIPTextModel:
    """Teach a text encoder to tell what captions say of each attribute; returns it frozen."""
    torch.manual_seed(0)
    encoder = new_text_encoder(tokenizer).to(device)
    rows = PlaceholderRows(encoder, tokenizer)
    reader = AttributeReader().to(device)
    both = nn.ModuleList([encoder, reader])

    def logits(corpus: Corpus, scenes: Tensor, captions: Tensor) -> tuple[list[Tensor], Tensor]:
        ids, looks = corpus.ids[scenes, captions].to(device), corpus.looks[scenes].to(device)
        said = corpus.said[scenes, captions].to(device)
        return reader(read(encoder, ids, rows, looks)), said

    def loss_of(generator: torch.Generator) -> Tensor:
        guesses, said = logits(corpus, *corpus.draw(batch, generator))
        losses = [F.cross_entropy(guess, said[:, i]) for i, guess in enumerate(guesses)]
        return torch.stack(losses).sum()

    def report(step: int, network: nn.Module) -> str:
        scenes = torch.arange(len(validation.looks))
        guesses, said = logits(validation, scenes, torch.zeros_like(scenes))
        right = torch.stack([g.argmax(1) == said[:, i] for i, g in enumerate(guesses)])
        shares = zip(CLASSES, right.float().mean(dim=1).tolist(), strict=True)
        return "  ".join(f"{name} {share:.1%}" for name, share in shares)

    schedule = Schedule(steps=steps, learning_rate=learning_rate, ema_decay=0.99)
    train(
        "text encoder",
        both,
        loss_of,
        schedule,
        batch=batch,
        seed=1,
        checkpoint=checkpoint,
        resume=resume,
        report=report,
    )
    return encoder.requires_grad_(False).eval()
