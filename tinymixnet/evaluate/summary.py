"""What an evaluation has found, in words and for JSON."""

from typing import Any

from tinymixnet.errors import printable
from tinymixnet.evaluate.data import LabelledPhotos
from tinymixnet.evaluate.imagenet import is_validation, published
from tinymixnet.evaluate.results import Results
from tinymixnet.evaluate.words import count, percent


def data_words(data: LabelledPhotos) -> list[str]:
    """Return lines that say what DATA is, and what of it is not evaluated."""
    classes = count(len(data.classes), "class")
    photos = count(len(data.photos), "photo")
    lines = [f"{data.path}: {data.kind}, understood as {data.understood}: {classes}, {photos}"]
    lines += [f"left out: {words}" for words in data.left_out]
    return [printable(line) for line in lines]


def result_words(results: Results, output: str | None) -> list[str]:
    """Return lines that say how often the answers are right, and how sure that is."""
    header = results.header
    name = printable(header["weights"]["name"])
    lines = [f"{name}, preset {header['preset']}, {header['input_size']} pixels"]
    asked = results.photos + len(results.skipped)
    total = header["data"]["photos"]
    sample = "" if asked == total else f", a sample of {total:,}"
    lines[0] += f": {count(results.photos, 'photo')}{sample}"
    if not results.photos:
        lines.append("  no photo could be read")
    else:
        shares = (
            ("top-1", results.top1, results.interval1),
            ("top-5", results.top5, results.interval5),
        )
        known = published(results.header)
        for i, (top, share, (low, high)) in enumerate(shares):
            line = f"  {top}  {percent(share)}  (95 % interval {percent(low)} to {percent(high)})"
            if known:
                inside = "inside" if low <= known[i] <= high else "outside"
                line += f", published {percent(known[i])}, {inside} the interval"
            lines.append(line)
        if known and not is_validation(results.header):
            lines.append(
                "  (the published figures are of ImageNet's validation photos, these are others)"
            )
    if results.skipped:
        lines.append(f"  skipped: {count(len(results.skipped), 'photo')} that could not be read")
        lines += [f"    {printable(file)}: {printable(why)}" for file, _, why in results.skipped]
    if results.answered_now:
        speed = results.answered_now / max(results.seconds, 1e-9)
        lines.append(f"  {speed:.1f} images/s")
    if output:
        again = "" if results.answered_now else " (all of them were there already)"
        lines.append(f"  {printable(output)}{again}")
    return lines


def as_json(results: Results, output: str | None = None) -> dict[str, Any]:
    """Return results as a value for JSON."""
    header = results.header
    known = published(results.header)
    speed = results.answered_now / results.seconds if results.answered_now else None
    return {
        "weights": header["weights"]["name"],
        "weights_sha256": header["weights"]["sha256"],
        "preset": header["preset"],
        "input_size": header["input_size"],
        "data": header["data"],
        "classes": len(header["classes"]),
        "photos": results.photos,
        "top1": results.top1,
        "top1_interval": results.interval1,
        "top5": results.top5,
        "top5_interval": results.interval5,
        "published": known
        and {
            "top1": known[0],
            "top1_inside": results.interval1[0] <= known[0] <= results.interval1[1],
            "top5": known[1],
            "top5_inside": results.interval5[0] <= known[1] <= results.interval5[1],
            "same_photos": is_validation(results.header),
        },
        "skipped": [{"file": file, "reason": reason} for file, _, reason in results.skipped],
        "images_per_second": speed,
        "results": output,
    }
