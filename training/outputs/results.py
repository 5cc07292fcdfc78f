"""What a finished run writes: what has been learned, the pipeline, the report; the hub's copy."""

from __future__ import annotations

from pathlib import Path

from training.config.run import RunConfig
from training.errors import first_line
from training.inference.comparison import write_comparison
from training.method import Values
from training.outputs.hub import publish
from training.outputs.pipeline import save_full_pipeline
from training.outputs.writer import Outputs
from training.storage.run_directory import COMPARISON_FILE


def write_results(
    config: RunConfig, repository: str, outputs: Outputs, global_step: int, values: Values
) -> None:
    """Write the outputs of a run that has done all its steps; the first rank alone does.

    Args:
        repository: on the hub, where `push_to_hub` is on.
        values: what has been learned.

    Raises:
        UserError: a file cannot be written, or the hub refuses.
    """
    saving, progress = config.outputs, outputs.progress
    folder = saving.output_dir
    paths: list[Path] = outputs.final(values)
    if saving.save_as_full_pipeline or saving.push_to_hub:  # as diffusers' script
        progress.note("saving the whole pipeline")
        save_full_pipeline(folder, config.model, outputs.method.learned_models(values))
        paths.append(folder / "model_index.json")
    outputs.write_done(global_step, paths)
    try:
        outputs.partial_samples(global_step)
        comparison = write_comparison(
            folder, config.title, _conditions(config, global_step), outputs.method.partial_weights
        )
        paths += [comparison] if comparison else []
    except Exception as error:  # what was learned is saved: no picture's fault may fail the run
        progress.note(f"no {COMPARISON_FILE}: {first_line(error)}")
    from training.outputs.report import write_report  # what draws it takes long to import

    paths.append(write_report(folder))
    for path in paths:
        progress.note(f"wrote {path}")
    if saving.push_to_hub:
        publish(config, repository, progress.note)


def _conditions(config: RunConfig, global_step: int) -> str:
    """Under what conditions the compared pictures came about, for their caption."""
    model, drawing = config.model_name, config.validation
    name = "/".join(Path(model).resolve().parts[-2:]) if Path(model).exists() else model
    return (
        f"{global_step} training steps; {drawing.num_inference_steps} denoising steps, "
        f"guidance {drawing.guidance_scale:g}; model {name}"
    )
