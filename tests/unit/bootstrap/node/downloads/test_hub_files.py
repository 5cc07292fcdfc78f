"""Which files of a repository are fetched."""

from __future__ import annotations

from bootstrap.node.downloads.hub_files import picture_files, pipeline_files, without_safetensors

SD15 = [
    ".gitattributes",
    "README.md",
    "feature_extractor/preprocessor_config.json",
    "model_index.json",
    "safety_checker/config.json",
    "safety_checker/model.fp16.safetensors",
    "safety_checker/model.safetensors",
    "safety_checker/pytorch_model.bin",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/model.safetensors",
    "text_encoder/pytorch_model.bin",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "v1-5-pruned-emaonly.ckpt",
    "v1-5-pruned.safetensors",
    "v1-inference.yaml",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
]


def test_stable_diffusion() -> None:
    assert pipeline_files(SD15) == [
        "feature_extractor/preprocessor_config.json",
        "model_index.json",
        "safety_checker/config.json",
        "safety_checker/model.safetensors",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/special_tokens_map.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert without_safetensors(pipeline_files(SD15), SD15) == []


def test_shards_come_with_their_index() -> None:
    names = [
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
        "unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model.safetensors.index.json",
        "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
        "unet/diffusion_pytorch_model.bin.index.json",
    ]
    assert pipeline_files(names) == [names[0], names[1], names[3]]


def test_pickles_alone_are_noticed() -> None:
    names = ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.bin"]
    assert without_safetensors(pipeline_files(names), names) == ["unet"]


def test_pictures_of_a_concept() -> None:
    names = ["README.md", "concept_images/1.jpeg", "concept_images/0.jpeg", "preview.png"]
    assert picture_files(names) == ["concept_images/0.jpeg", "concept_images/1.jpeg"]
    assert picture_files(["b.PNG", "a.txt"]) == ["b.PNG"]
    captioned = ["x/b.PNG", "x/b.txt", "x/metadata.jsonl", "README.txt", "metadata.jsonl"]
    assert picture_files(captioned) == captioned[:3]
