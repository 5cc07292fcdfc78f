"""The configuration: diffusers' names and defaults, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from training.config.command_line import GPU_ONLY, SUPERSEDED
from training.config.textual_inversion import (
    IDENTIFIED_BY_CONTENT,
    MAY_DIFFER_ON_RESUME,
    TextualInversionConfig,
)

REQUIRED = {
    "pretrained_model_name_or_path": "model",
    "train_data_dir": "pictures",
    "placeholder_token": "<new>",
    "initializer_token": "toy",
}
DIFFUSERS_DEFAULTS: dict[str, object] = {
    "save_steps": 500,
    "save_as_full_pipeline": False,
    "num_vectors": 1,
    "revision": None,
    "variant": None,
    "tokenizer_name": None,
    "learnable_property": "object",
    "repeats": 100,
    "output_dir": "text-inversion-model",
    "seed": None,
    "resolution": 512,
    "center_crop": False,
    "train_batch_size": 16,
    "num_train_epochs": 100,
    "max_train_steps": 5000,
    "gradient_accumulation_steps": 1,
    "gradient_checkpointing": False,
    "learning_rate": 1e-4,
    "scale_lr": False,
    "lr_scheduler": "constant",
    "lr_warmup_steps": 500,
    "lr_num_cycles": 1,
    "dataloader_num_workers": 0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_weight_decay": 1e-2,
    "adam_epsilon": 1e-8,
    "push_to_hub": False,
    "hub_model_id": None,
    "logging_dir": "logs",
    "report_to": "tensorboard",
    "validation_prompt": None,
    "num_validation_images": 4,
    "validation_steps": 100,
    "checkpointing_steps": 500,
    "checkpoints_total_limit": None,
    "resume_from_checkpoint": None,
    "no_safe_serialization": False,
}
DIFFUSERS_FLAGS = {
    *DIFFUSERS_DEFAULTS, *REQUIRED, "mixed_precision", "allow_tf32", "hub_token", "local_rank",
    "validation_epochs", "enable_xformers_memory_efficient_attention",
}  # fmt: skip


def config(**changes: Any) -> TextualInversionConfig:
    return TextualInversionConfig.model_validate({**REQUIRED, **changes})


def complaint(**changes: Any) -> str:
    with pytest.raises(ValidationError) as raised:
        config(**changes)
    return str(raised.value)


@pytest.mark.parametrize("name", [name for name in DIFFUSERS_DEFAULTS if name != "resolution"])
def test_a_default_is_that_of_diffusers(name: str) -> None:
    default = TextualInversionConfig.model_fields[name].default
    assert (str(default) if isinstance(default, Path) else default) == DIFFUSERS_DEFAULTS[name]


def test_the_resolution_follows_the_model_and_says_what_diffusers_has() -> None:
    field = TextualInversionConfig.model_fields["resolution"]
    assert field.default is None
    assert f"diffusers' default is {DIFFUSERS_DEFAULTS['resolution']}" in str(field.description)


def test_the_other_default_that_differs_says_so() -> None:
    field = TextualInversionConfig.model_fields["mixed_precision"]
    assert field.default == "auto"
    assert "diffusers' default is no" in str(field.description)


def test_every_flag_of_diffusers_is_taken() -> None:
    assert set(TextualInversionConfig.model_fields) | set(GPU_ONLY) | set(SUPERSEDED) >= (
        DIFFUSERS_FLAGS
    )


def test_every_field_has_a_group_and_a_sentence() -> None:
    for name, field in TextualInversionConfig.model_fields.items():
        assert isinstance(field.json_schema_extra, dict), name
        assert field.json_schema_extra["group"], name
        assert field.description, name
        assert field.description.endswith((".", "?", ")")), name


def test_all_errors_are_found_at_once() -> None:
    found = complaint(seed=-1, resolution=100, learning_rate=0, placeholder_token="two words")
    assert found.startswith("4 validation errors")


def test_fp16_is_refused_with_the_reason() -> None:
    assert "fp16 is for GPUs; use bf16, no (fp32) or auto" in complaint(mixed_precision="fp16")


def test_fp32_is_another_name_of_no() -> None:
    assert config(mixed_precision="fp32").mixed_precision == "no"


@pytest.mark.parametrize(("given", "nearest"), [(510, 512), (100, 96), (1021, 1024)])
def test_a_resolution_that_does_not_fit_gets_the_nearest_that_does(
    given: int, nearest: int
) -> None:
    assert f"must be a multiple of 8; the nearest is {nearest}" in complaint(resolution=given)


@pytest.mark.parametrize("name", ["learning_rate", "max_grad_norm", "guidance_scale", "lr_power"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_numbers_are_finite(name: str, value: str) -> None:
    assert name in complaint(**{name: value})


def test_a_start_is_needed() -> None:
    found = complaint(initializer_token=None)
    assert "give initializer_token (a word) or initial_embeds (a file)" in found
    assert config(initializer_token=None, initial_embeds="rows.bin").initializer_token is None


def test_piecewise_constant_needs_rules() -> None:
    assert "needs rules" in complaint(lr_scheduler="piecewise_constant")
    assert config(lr_scheduler="piecewise_constant", lr_step_rules="1:10,0.1").lr_step_rules


@pytest.mark.parametrize("rules", ["fast", "1:10", "1:ten,0.1", "1:10,0.1:20", ""])
def test_rules_that_cannot_be_read_are_refused(rules: str) -> None:
    found = complaint(lr_scheduler="piecewise_constant", lr_step_rules=rules)
    assert "lr_step_rules" in found
    assert "1:10,0.1:20,0.01" in found


def test_a_retired_hub_name_is_replaced_unless_it_is_a_folder_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    retired = config(pretrained_model_name_or_path="runwayml/stable-diffusion-v1-5")
    assert retired.model_name == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    (tmp_path / "runwayml" / "stable-diffusion-v1-5").mkdir(parents=True)
    assert retired.model_name == "runwayml/stable-diffusion-v1-5"
    other = config(pretrained_model_name_or_path="someone/model")
    assert other.model_name == "someone/model"


def test_several_vectors_are_several_tokens() -> None:
    assert config(num_vectors=1).placeholder_tokens == ["<new>"]
    assert config(num_vectors=3).placeholder_tokens == ["<new>", "<new>_1", "<new>_2"]


def test_one_prompt_is_a_list_of_one() -> None:
    assert config(validation_prompt="a <new>").validation_prompt == ["a <new>"]


def test_keys_named_elsewhere_exist() -> None:
    fields = set(TextualInversionConfig.model_fields)
    assert fields >= MAY_DIFFER_ON_RESUME
    assert fields >= set(IDENTIFIED_BY_CONTENT)
    assert not MAY_DIFFER_ON_RESUME & set(IDENTIFIED_BY_CONTENT)


def test_the_json_schema_names_every_key_with_its_default_and_limits() -> None:
    schema = TextualInversionConfig.model_json_schema()
    assert set(schema["properties"]) == set(TextualInversionConfig.model_fields)
    assert schema["required"] == [
        "pretrained_model_name_or_path", "placeholder_token", "train_data_dir",
    ]  # fmt: skip
    assert schema["additionalProperties"] is False
    resolution = schema["properties"]["resolution"]
    assert resolution["default"] is None
    assert resolution["anyOf"][0]["minimum"] == 8
    assert resolution["group"] == "data"
    assert schema["properties"]["mixed_precision"]["enum"] == ["auto", "no", "bf16"]


def test_a_group_holds_the_keys_of_its_concern_and_no_others() -> None:
    whole = config(learning_rate=3e-4, num_vectors=2, resolution=64)
    groups = (
        whole.model, whole.concept, whole.data, whole.optimization, whole.machine,
        whole.outputs, whole.embeds, whole.validation,
    )  # fmt: skip
    assert not any(isinstance(group, TextualInversionConfig) for group in groups)
    together: dict[str, Any] = {}
    for group in groups:
        assert not together.keys() & group.model_dump().keys()
        together |= group.model_dump()
    assert together == whole.model_dump()


@pytest.mark.parametrize(("steps", "wanted"), [(7, 7), ("none", 6)])
def test_steps_are_those_given_or_those_of_the_epochs(steps: int | str, wanted: int) -> None:
    keys = config(max_train_steps=steps, num_train_epochs=2).optimization
    assert keys.total_steps(epoch_length=10, global_batch=4) == wanted
