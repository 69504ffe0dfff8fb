"""The log of a training as records."""

from ssmlab.core.record import Record


def curves(log: list[dict]) -> dict[str, list[Record]]:
    """The Trainer's log as records, by part: loss, metrics, learning rate and epoch at every step that was logged."""
    found: dict[str, list[Record]] = {"train": [], "val": []}
    units = {"loss": "nats", "accuracy": "fraction", "token_accuracy": "fraction", "learning_rate": None, "epoch": None}
    units |= {"nll": "nats", "bleu": None, "chrf": None}
    bits = (key.removeprefix("eval_") for row in log for key in row)
    units |= {metric: "bits" for metric in bits if metric.startswith("bits_per_")}
    for row in log:
        if "eval_loss" not in row and "loss" not in row:
            continue
        prefix, rows = ("eval_", found["val"]) if "eval_loss" in row else ("", found["train"])
        for metric in units:
            key = metric if metric in ("learning_rate", "epoch") else prefix + metric
            if key in row:
                rows.append(Record(metric=metric, value=row[key], unit=units[metric], step=row["step"]))
    return found
