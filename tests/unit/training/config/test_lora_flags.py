"""The flags of diffusers' train_text_to_image_lora.py are taken, every one."""

from __future__ import annotations

from training.config.command_line import GPU_ONLY, SUPERSEDED
from training.config.lora import LoraConfig

DIFFUSERS_FLAGS = {
    "adam_beta1", "adam_beta2", "adam_epsilon", "adam_weight_decay", "allow_tf32", "cache_dir",
    "caption_column", "center_crop", "checkpointing_steps", "checkpoints_total_limit",
    "dataloader_num_workers", "dataset_config_name", "dataset_name",
    "enable_xformers_memory_efficient_attention", "gradient_accumulation_steps",
    "gradient_checkpointing", "hub_model_id", "hub_token", "image_column",
    "image_interpolation_mode", "learning_rate", "local_rank", "logging_dir", "lr_scheduler",
    "lr_warmup_steps", "max_grad_norm", "max_train_samples", "max_train_steps", "mixed_precision",
    "noise_offset", "num_train_epochs", "num_validation_images", "output_dir", "prediction_type",
    "pretrained_model_name_or_path", "push_to_hub", "random_flip", "rank", "report_to",
    "resolution", "resume_from_checkpoint", "revision", "scale_lr", "seed", "snr_gamma",
    "train_batch_size", "train_data_dir", "use_8bit_adam", "validation_epochs",
    "validation_prompt", "variant",
}  # fmt: skip


def test_every_flag_of_diffusers_is_taken() -> None:
    taken = {*LoraConfig.model_fields, *GPU_ONLY, *SUPERSEDED}
    assert taken >= DIFFUSERS_FLAGS
