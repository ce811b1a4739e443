"""The steps of each part of the network in words: what a step does, and what it is for."""

from typing import NamedTuple

from tinymixnet.engine.architecture import Block
from tinymixnet.engine.kernels import split_channels
from tinymixnet.report.data import ReportData, Unit
from tinymixnet.report.text import format_shape


class Step(NamedTuple):
    """Some layers of a part that do one thing together."""

    title: str
    does: str
    purpose: str  # a sentence or two
    layers: list[str]


def steps(data: ReportData, unit: Unit) -> list[Step]:
    """Return the steps of a part of the network; every layer belongs to one of them."""
    if unit.block:
        return block_steps(unit, unit.block)
    return stem_steps(data, unit) if unit.name == "stem" else head_steps(data, unit)


def block_steps(unit: Unit, block: Block) -> list[Step]:
    def layers(*kinds: str) -> list[str]:
        return [name for name in unit.layers if name.split("/")[1].startswith(kinds)]

    norm = f"batch norm, {'swish' if block.swish else 'relu'}"
    result = []
    if block.expand_groups:
        ratio = block.expanded // block.inputs
        result.append(
            Step(
                "Expand",
                f"1 × 1 convolution{grouped(block.expand_groups)}, {block.inputs} → "
                f"{block.expanded} channels; {norm}",
                f"Gives every pixel {ratio} times as many channels, each another mixture of the "
                "old ones, so that the next step has more to look at.",
                layers("expand"),
            )
        )
    channels = split_channels(block.expanded, len(block.kernel_sizes))
    groups = zip(block.kernel_sizes, channels, strict=True)
    stride = f", stride {block.stride}" if block.stride > 1 else ""
    looks = "Looks at the neighbours of every pixel, in each channel by itself: for edges, corners "
    looks += "and textures."
    if len(block.kernel_sizes) > 1:
        looks += " Small kernels see detail, large kernels see larger shapes: this mix is MixConv."
    if block.stride > 1:
        looks += " Stepping over pixels makes the map smaller, and all that follows cheaper."
    result.append(
        Step(
            "Depthwise",
            ", ".join(f"{k} × {k} on {c} channels" for k, c in groups) + f"{stride}; {norm}",
            looks,
            layers("depthwise"),
        )
    )
    if block.se_width:
        result.append(
            Step(
                "Squeeze and excite",
                f"Average of each channel, {block.expanded} → {block.se_width} → {block.expanded} "
                "gates from 0 to 1, one for each channel",
                "Looks at the whole photo at once to decide which channels matter for it. Those "
                "pass, the others are turned down.",
                layers("se_"),
            )
        )
    shape = format_shape(list(unit.layers.values())[-1])
    result.append(
        Step(
            "Project",
            f"1 × 1 convolution{grouped(block.project_groups)}, {block.expanded} → "
            f"{block.outputs} channels; batch norm, no activation",
            "Sums up what was seen in few channels, so that the next block stays cheap.",
            layers("project") if block.residual else layers("project", "output"),
        )
    )
    if block.residual:
        result.append(
            Step(
                "Add the input",
                f"The block's input plus its result, {shape}",
                "Keeps what was known before the block, so the block only has to learn what to "
                "change.",
                layers("output"),
            )
        )
    return result


def stem_steps(data: ReportData, unit: Unit) -> list[Step]:
    metadata, filters = data.model.metadata, data.model.architecture.stem
    rest = [name for name in unit.layers if name.startswith("stem/")]
    means = ", ".join(f"{value:g}" for value in metadata.mean)
    return [
        Step(
            "The photo",
            f"{format_shape(unit.layers['image'])}: height, width, and red, green, blue, 0..255",
            "All that the network gets to know. It is cropped and resized the way the network was "
            "trained.",
            ["image"],
        ),
        Step(
            "Normalise",
            f"Minus {means}, divided by the standard deviation of each colour",
            "Centres the values around zero, with a spread near one: the range for which the "
            "weights were trained.",
            ["normalize"],
        ),
        Step(
            "First convolution",
            f"3 × 3 convolution, stride 2, 3 → {filters} channels; batch norm, relu",
            "Takes the first look: finds edges and colours, in maps of half the size.",
            rest,
        ),
    ]


def head_steps(data: ReportData, unit: Unit) -> list[Step]:
    architecture = data.model.architecture
    inputs, filters = architecture.blocks[-1].outputs, architecture.head_filters
    return [
        Step(
            "Last convolution",
            f"1 × 1 convolution, {inputs} → {filters} channels; batch norm, relu",
            "Combines all that was found into many signs, such as fur or a wheel, each with its "
            "place.",
            [n for n in unit.layers if n.startswith("head/") and n != "head/pool"],
        ),
        Step(
            "Average",
            f"The mean of each channel over all pixels, {filters} numbers",
            "Drops where each sign was seen, and keeps how much of it there is.",
            ["head/pool"],
        ),
        Step(
            "Dense",
            f"{filters} numbers → {architecture.classes} scores, one for each class",
            "Lets every sign speak for or against every class.",
            ["logits"],
        ),
        Step(
            "Softmax",
            "The exponential of each score, divided by the sum over all classes",
            "Turns scores into probabilities: none is negative, and they add up to 1.",
            ["probabilities"],
        ),
    ]


def grouped(count: int) -> str:
    return f" in {count} groups" if count > 1 else ""
