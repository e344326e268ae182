"""The report of a verification, as values and as text."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from keras_notes._shared.types import Config
from keras_notes.bundle import Distance

__all__ = ["OutputReport", "Report", "TaskFigure"]


@dataclass(frozen=True)
class OutputReport:
    """The errors of one output over all golden samples.

    Attributes:
        signature: Name of the signature.
        name: Name of the output.
        max_error: Largest absolute error.
        rms_error: Root mean square of the error.
        mean_error: Signed mean of the error, which is the part that is the same everywhere.
        max_error_lsb: `max_error` in steps of the output's integer grid; None for a float output.
        rms_error_lsb: `rms_error` in those steps; None for a float output.
        mean_error_lsb: `mean_error` in those steps; None for a float output.
        top1_agreement: Share of golden samples with the same largest class; None for an output without classes.
        rms_error_by_quarter: Root mean square of the error in each quarter of the golden sequence, which shows drift;
            None for a model without states, or a sequence of fewer than 4 steps.
        agreement: Share of integers that are those of the trained model, for an output of integers such as class ids,
            which is judged by it; None for other outputs.
        distance: Distance of the file to the float model that a quantization-aware model came from; None without one.
        failures: Limits that this output exceeds, as sentences; () if it exceeds none.

    Example:
        >>> from keras_notes.verification import verify
        >>> (output,) = verify("tflite/testdata/bars_static_int8").outputs
        >>> f"{output.signature}/{output.name}", output.top1_agreement, output.failures
        ('serving_default/output', 1.0, ())
        >>> output.max_error_lsb < 2
        True
    """

    signature: str
    name: str
    max_error: float
    rms_error: float
    mean_error: float
    max_error_lsb: float | None
    rms_error_lsb: float | None
    mean_error_lsb: float | None
    top1_agreement: float | None
    rms_error_by_quarter: tuple[float, float, float, float] | None = None
    agreement: float | None = None
    distance: Distance | None = None
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaskFigure:
    """A figure of the task on labelled samples.

    Attributes:
        output: Name of the output.
        metric: Name of the metric.
        value: Figure of the file.
        low: Lower end of its 95 % confidence interval.
        high: Upper end of that interval.
        interval: Method of the interval: "wilson" for shares of samples, "bootstrap" (over samples) for other figures.
        samples: Number of samples.
        trained_value: Figure of the trained model, computed by Keras at conversion; None if the bundle has none.
        trained_samples: Number of samples of that figure; None without it.
        is_on_same_data: Whether both are figures of the same samples and labels.
        loss: Loss of the file against the trained model on the same data: of accuracy, as a fraction; of an error,
            the growth of its square as a share of the labels' variance. None on other data, or for a metric of your
            own.
        sure_loss: Lower end of the 95 % interval of the mean loss of a sample, each compared with itself; None without
            `loss`.
        chance: Share of the most frequent answer; None without classes.
        budget: Largest loss that the file may have.

    Example:
        >>> figure = TaskFigure("output", "accuracy", 0.31, 0.27, 0.35, "wilson", 597, 0.88, 597, True, 0.57, 0.53, 0.1)
        >>> print(figure)
        accuracy of 'output' 0.3100 (95 % interval 0.2700 to 0.3500) on 597 samples; trained model 0.8800
    """

    output: str
    metric: str
    value: float
    low: float
    high: float
    interval: str
    samples: int
    trained_value: float | None
    trained_samples: int | None
    is_on_same_data: bool
    loss: float | None
    sure_loss: float | None
    chance: float | None
    budget: float = 0.01

    def __str__(self) -> str:
        text = (
            f"{self.metric} of {self.output!r} {self.value:.4f} (95 % interval {self.low:.4f} to {self.high:.4f}) "
            f"on {self.samples} samples"
        )
        if self.trained_value is None:
            return f"{text}; trained model not known: convert with `validation_data`"
        other = "" if self.is_on_same_data else f" on {self.trained_samples} other samples"
        return f"{text}; trained model {self.trained_value:.4f}{other}"


@dataclass(frozen=True)
class Report:
    """The result of `verify`. `str(report)` is a text to read.

    Attributes:
        name: Name of the model.
        recipe: Recipe of the bundle.
        kernels: Set of kernels that the file ran on.
        runtime_version: Version of LiteRT.
        model_bytes: Size of the .tflite file.
        outputs: Errors of each output of each signature.
        golden_samples: Number of golden samples of all signatures.
        accuracy: Accuracy of the file on x and y, in [0, 1]; None without them.
        accuracy_samples: Number of samples in x; 0 without them.
        operators: Number of operators by name, the most frequent first.
        float_islands: Operators that compute in floating point, as "NAME tensor"; () for a fully integer file.
        failures: Failures of all outputs.
        is_mixed: Whether some operators compute in floating point and others do not.
        figures: Figures of the task on x and y, by output, with that of the trained model; () without them.
        warnings: Sentences about what no limit judges, such as data that leave the calibrated range; () without any.
        causes: Sentences that say why a file strays, with a remedy; () for a file that does not.

    Example:
        >>> from keras_notes.verification import verify
        >>> report = verify("tflite/testdata/bars_static_int8")
        >>> report.ok, report.model_bytes, report.operators["CONV_2D"], report.float_islands
        (True, 3999, 1, ())
    """

    name: str
    recipe: str
    kernels: str
    runtime_version: str
    model_bytes: int
    outputs: tuple[OutputReport, ...]
    golden_samples: int
    accuracy: float | None
    accuracy_samples: int
    operators: dict[str, int]
    float_islands: tuple[str, ...]
    failures: tuple[str, ...]
    is_mixed: bool = False
    figures: tuple[TaskFigure, ...] = ()
    warnings: tuple[str, ...] = ()
    causes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every output is within the bundle's tolerance, and no figure fell behind the trained model's."""
        return not self.failures

    def to_dict(self) -> Config:
        """Returns the report as plain values, for JSON.

        Example:
            >>> from keras_notes.verification import verify
            >>> values = verify("tflite/testdata/bars_static_int8").to_dict()
            >>> values["ok"], values["recipe"], values["outputs"][0]["name"]
            (True, 'static_int8', 'output')
        """
        return {"ok": self.ok, **dataclasses.asdict(self)}

    def __str__(self) -> str:
        lines = [
            f"{self.name}: {'PASS' if self.ok else 'FAIL'}",
            f"  recipe {self.recipe}, {self.model_bytes} bytes",
            f"  LiteRT {self.runtime_version} with {self.kernels} kernels, {self.golden_samples} golden samples",
            *(f"  {line}" for line in map(_output_line, self.outputs)),
            f"  operators: {', '.join(f'{count} {name}' for name, count in self.operators.items())}",
        ]
        if self.accuracy is not None:
            lines.append(f"  accuracy {self.accuracy:.4f} on {self.accuracy_samples} samples")
        if self.is_mixed:
            lines.append(f"  in floating point: {', '.join(self.float_islands)}")
        lines += [
            f"  {output.signature}/{output.name} against the float model: {output.distance}"
            for output in self.outputs
            if output.distance is not None
        ]
        lines += [f"  {figure}" for figure in self.figures]
        lines += [f"  WARNING: {warning}" for warning in self.warnings]
        lines += [f"  FAILED: {failure}" for failure in self.failures]
        return "\n".join([*lines, *(f"  CAUSE: {cause}" for cause in self.causes)])


def _output_line(output: OutputReport) -> str:
    error = f"error max {output.max_error:.3g}, mean {output.mean_error:.3g}"
    if output.max_error_lsb is not None:
        error += (
            f"; in LSB max {output.max_error_lsb:.2f}, rms {output.rms_error_lsb:.2f}, mean {output.mean_error_lsb:.2f}"
        )
    if output.agreement is not None:
        return f"{output.signature}/{output.name}: {output.agreement:.4f} of the integers agree"
    agreement = "" if output.top1_agreement is None else f"; top-1 agreement {output.top1_agreement:.4f}"
    return f"{output.signature}/{output.name}: {error}{agreement}{_drift(output)}"


def _drift(output: OutputReport) -> str:
    if output.rms_error_by_quarter is None:
        return ""
    # The largest error over its LSB is the step; without one the figures are those of the output itself.
    scale, unit = 1.0, ""
    if output.max_error_lsb and output.max_error:
        scale, unit = output.max_error / output.max_error_lsb, " LSB"
    quarters = ", ".join(f"{value / scale:.3g}" for value in output.rms_error_by_quarter)
    return f"; rms{unit} by quarter of the sequence {quarters}"
