"""How far a lesson has come, in one file of the work directory: after a crash it goes on from there.

The file holds the parameters and the two moments that Adam keeps of each. Which windows a step draws and at
which rate it learns follow from its number alone, so that the bytes of the result do not depend on where a
lesson was cut or how often it was kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from tritium.errors import ValidationError
from tritium.formats.safetensors import write_safetensors
from tritium.formats.weight_file import WeightFile

if TYPE_CHECKING:
    from pathlib import Path

    from tritium.quantize.plan import QuantizationPlan

LESSON: Final = "lesson.safetensors"
_MOMENTS: Final = ("exp_avg", "exp_avg_sq")


def keep_lesson(plan: QuantizationPlan, directory: Path, optimizer: torch.optim.Adam, *, steps: int) -> None:
    """Write what was learned in so many steps, whole or not at all."""
    tensors = {}
    for index, parameter in enumerate(_parameters(optimizer)):
        tensors[f"{index}.value"] = parameter.detach().numpy()
        for moment in _MOMENTS:
            tensors[f"{index}.{moment}"] = optimizer.state[parameter][moment].numpy()
    about = {"plan": plan.digest, "steps": str(steps)}
    write_safetensors(directory / LESSON, tensors, metadata=about)


def take_up_lesson(plan: QuantizationPlan, directory: Path, optimizer: torch.optim.Adam) -> int:
    """Put this plan's kept lesson into parameters and optimizer; return its steps, 0 if there is none."""
    try:
        with WeightFile(directory / LESSON, memory_map=False) as file:
            steps = int(file.metadata.get("steps", "0"))
            if file.metadata.get("plan") != plan.digest or steps < 1:
                return 0
            kept = {name: np.array(file.read(tensor)) for name, tensor in file.tensors.items()}
    except (ValidationError, ValueError):
        return 0  # not there, or damaged: the lesson begins again
    parameters = _parameters(optimizer)
    shapes = {
        f"{index}.{part}": tuple(parameter.shape)
        for index, parameter in enumerate(parameters)
        for part in ("value", *_MOMENTS)
    }
    if {name: values.shape for name, values in kept.items()} != shapes:
        return 0
    with torch.no_grad():
        for index, parameter in enumerate(parameters):
            parameter.copy_(torch.from_numpy(kept[f"{index}.value"]))
            moments = {name: torch.from_numpy(kept[f"{index}.{name}"]) for name in _MOMENTS}
            optimizer.state[parameter] = {"step": torch.tensor(float(steps)), **moments}
    return steps


def _parameters(optimizer: torch.optim.Adam) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
