"""Record the submodules of a PyTorch module."""

from collections.abc import Sequence
from typing import Any

from tinymixnet.errors import InputError, TraceError, short_repr
from weights_tools.recorders.recording import open_recording
from weights_tools.recorders.shared import ALL, StrPath, import_package


def record_torch(module: Any, inputs: Any, path: StrPath, layers: Sequence[str] = ALL) -> int:
    """Run a torch.nn.Module and record the output of every submodule by name (`blocks.1.0.bn1`).

    inputs is what the module takes, a tensor or array; it is converted to the type and device of
    the weights. The module runs in eval mode without gradients and is left as it was. If a
    submodule is called again, that call's name gets the suffix #1, #2, ... Outputs that are no
    tensors are left out.
    """
    torch = import_package("torch", "record-torch")
    if not isinstance(module, torch.nn.Module):
        raise TraceError(f"expected a torch.nn.Module, found a {type(module).__name__}")
    modes = {part: part.training for part in module.modules()}
    weight = next((p for p in module.parameters() if p.is_floating_point()), None)
    try:
        tensor = torch.as_tensor(inputs)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"inputs: expected a tensor, found {short_repr(inputs)}") from None
    hooks = []
    with open_recording(path, layers) as recording:
        try:
            for name, part in module.named_modules():
                if name and recording.wants(name):
                    hooks.append(part.register_forward_hook(recording.hook(name)))
            module.eval()
            with torch.inference_mode():
                module(tensor if weight is None else tensor.to(weight))
        finally:
            for hook in hooks:
                hook.remove()
            for part, training in modes.items():
                part.training = training
    return len(recording.names)
