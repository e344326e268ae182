"""A bundle as an object of three lines: what an app on a Raspberry Pi would use. Needs numpy and ai-edge-litert.

    label, share = Classifier("digits").classify(image)[0]
    streamer = Streamer("activity"); streamer.step(sample); streamer.reset()
    print(Translator("translator").translate("A man rides a bicycle."))       # this one needs tokenizers, too

Each checks the bundle's files when it opens them. Values are those of the trained model: a file with integer edges is
fed and read by the scale and zero point of model.json.
"""

from pathlib import Path

import run  # beside this file
from run import np

DECODING = ("encode", "prefill", "decode_step")
TOKENIZER_FILE = "tokenizer.json"
PAD, START, END = "<pad>", "<s>", "</s>"
# How far from 1 the sum of a softmax may be for each class, in steps of the output's grid; and without a grid.
SUM_STEPS, SUM_ERROR = 1.0, 1e-3


class Model:
    """The signatures of a bundle as functions of arrays by name; each call is one sample, with its batch of 1."""

    def __init__(self, bundle):
        self.bundle = Path(bundle)
        self.manifest = run.load_manifest(self.bundle)
        self.signatures = {entry["name"]: entry for entry in self.manifest["signatures"]}
        self._interpreter = run.open_interpreter(self.bundle, "xnnpack")
        self._runners = {name: self._interpreter.get_signature_runner(name) for name in self.signatures}

    def __call__(self, signature, values):
        """The outputs by name."""
        entry = self.signatures[signature]
        fed = {}
        for tensor in entry["inputs"]:
            name, value = tensor["name"], np.asarray(values[tensor["name"]])
            if self.manifest["batch_size"] == 1 and list(value.shape) != tensor["shape"]:
                raise ValueError(f"{name} must be of shape {tensor['shape']}. Received: {list(value.shape)}.")
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise ValueError(f"{name} must be finite. Received: NaN or infinity.")
            fed[name] = run.quantize(value, tensor)
        # A fused LSTM keeps its state in the file; what a caller wants kept, it passes in.
        self._interpreter.reset_all_variables()
        results = self._runners[signature](**fed)
        return {tensor["name"]: run.dequantize(results[tensor["name"]], tensor) for tensor in entry["outputs"]}

    def input_shape(self, signature, name):
        """Of an input by its name."""
        for tensor in self.signatures[signature]["inputs"]:
            if tensor["name"] == name:
                return tensor["shape"]
        raise ValueError(f"The signature {signature} must have an input {name}.")


class Classifier:
    """A model of one input and one output of classes."""

    def __init__(self, bundle):
        self._model = Model(bundle)
        self._entry = next(iter(self._model.signatures.values()))
        states = {state["input"] for state in self._entry["states"]}
        kept = {state["output"] for state in self._entry["states"]}
        inputs = [tensor for tensor in self._entry["inputs"] if tensor["name"] not in states]
        outputs = [tensor for tensor in self._entry["outputs"] if tensor["name"] not in kept]
        if len(inputs) != 1 or len(outputs) != 1 or set(outputs[0]["shape"][:-1]) != {1}:
            raise ValueError(
                f"A classifier must have one input, and one output of shape [1, classes]. Received: {len(inputs)} and "
                f"{[tensor['shape'] for tensor in outputs]}."
            )
        (self._input,), (self._output,) = inputs, outputs
        count = self._output["shape"][-1]
        self.labels = self._model.manifest["labels"] or [str(number) for number in range(count)]
        self.input_shape = self._input["shape"][1:]
        self._has_softmax = _are_shares(self._golden_outputs(), self._output["scale"])

    def classify(self, sample):
        """(label, probability) of every class, the likeliest first; `sample` has no batch axis."""
        if self._entry["states"]:
            raise TypeError("A model with states must see every sample. Give its samples to `step` of a Streamer.")
        return self._ranked(self._model(self._entry["name"], {self._input["name"]: np.asarray(sample)[None]}))

    def _ranked(self, results):
        values = results[self._output["name"]].astype(np.float64).ravel()
        shares = values if self._has_softmax else _softmax(values)
        return [(self.labels[index], float(shares[index])) for index in np.argsort(-shares, kind="stable")]

    def _golden_outputs(self):
        return run.golden_values(self._model.bundle, self._output, self._entry["golden_samples"])


class Streamer(Classifier):
    """A classifier that takes one sample of a sequence at a time, and remembers."""

    def __init__(self, bundle):
        super().__init__(bundle)
        if not self._entry["states"]:
            raise ValueError("A streamer must have states. This bundle takes a whole sequence: use Classifier.")
        self.reset()

    def reset(self):
        """Forgets: the next sample is the first of a sequence."""
        # The golden values of a state's input begin with what the trained model began with.
        shapes = {tensor["name"]: tensor for tensor in self._entry["inputs"]}
        samples = self._entry["golden_samples"]
        first = {state["input"]: shapes[state["input"]] for state in self._entry["states"]}
        self._states = {name: run.golden_values(self._model.bundle, t, samples)[:1] for name, t in first.items()}

    def step(self, sample):
        """(label, probability) of every class after this sample, the likeliest first; a sample is its features."""
        sample = np.asarray(sample)
        if sample.shape != (self.input_shape[-1],):
            raise ValueError(f"A sample must have {self.input_shape[-1]} features. Received: shape {sample.shape}.")
        values = {self._input["name"]: sample.reshape(self._input["shape"]), **self._states}
        results = self._model(self._entry["name"], values)
        self._states = {state["input"]: results[state["output"]] for state in self._entry["states"]}
        return self._ranked(results)


class Decoder:
    """The signatures `encode`, `prefill` and `decode_step` of a Transformer, and the ids that they take."""

    def __init__(self, bundle):
        self._model = Model(bundle)
        self.bundle, self.manifest = self._model.bundle, self._model.manifest
        if missing := [name for name in DECODING if name not in self._model.signatures]:
            raise ValueError(f"The bundle must have the signatures {', '.join(DECODING)}. It has no {missing[0]}.")
        self.source_length = self._model.input_shape("encode", "source_ids")[1]
        self.prompt_length = self._model.input_shape("prefill", "prompt_ids")[1]
        self.most = self._model.input_shape("decode_step", "cache_0_keys")[2]
        outputs = self._model.signatures["decode_step"]["outputs"]
        self.vocabulary = next(tensor["shape"][-1] for tensor in outputs if tensor["name"] == "logits")

    def decode(self, source_ids, start, end, pad, most):
        """The likeliest ids one by one, up to the end id or `most` of them."""
        self._check(source_ids, start, end, pad, most)
        source = np.full((1, self.source_length), pad, np.int32)
        source[0, : len(source_ids)] = source_ids
        try:
            memory = self._model("encode", {"source_ids": source})
        except RuntimeError as error:
            raise ValueError(f"Ids of the source must be in the vocabulary. {' '.join(str(error).split())}") from error
        prompt = np.full((1, self.prompt_length), start, np.int32)
        results = self._model("prefill", {"prompt_ids": prompt, **memory})
        ids = [int(results["logits"][0, 0].argmax())]
        while ids[-1] != end and len(ids) < most:
            caches = {name[: -len("_next")]: values for name, values in results.items() if name.endswith("_next")}
            step = {"target_ids": np.array([ids[-1:]], np.int32), "position": np.array([len(ids)], np.int32)}
            results = self._model("decode_step", {**step, **caches, **memory})
            ids.append(int(results["logits"][0].argmax()))
        return ids

    def _check(self, source_ids, start, end, pad, most):
        if not 1 <= len(source_ids) <= self.source_length:
            raise ValueError(f"A source must have 1 to {self.source_length} ids. Received: {len(source_ids)}.")
        # A negative id would count from the end; how many there are, the file knows.
        if min(*source_ids, pad) < 0:
            raise ValueError(f"Ids must be >= 0. Received: {min(*source_ids, pad)}.")
        for name, value in (("start", start), ("end", end)):
            if not 0 <= value < self.vocabulary:
                raise ValueError(f"The {name} id must be in [0, {self.vocabulary}). Received: {value}.")
        if not 1 <= most <= self.most:
            raise ValueError(f"The length must be in [1, {self.most}]. Received: {most}.")


class Translator:
    """A decoder with the words of its bundle: text in, text out."""

    def __init__(self, bundle):
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise ValueError("Text needs tokenizers: pip install -r requirements-text.txt.") from error
        self.decoder = Decoder(bundle)
        if TOKENIZER_FILE not in self.decoder.manifest["files"]:
            raise ValueError(f"The bundle must hold {TOKENIZER_FILE} for text. Convert with `tokenizer`, or give ids.")
        self._tokenizer = Tokenizer.from_file(str(self.decoder.bundle / TOKENIZER_FILE))
        ids = {name: self._tokenizer.token_to_id(name) for name in (PAD, START, END)}
        if missing := [name for name, value in ids.items() if value is None]:
            raise ValueError(f"{TOKENIZER_FILE} must have the words {PAD}, {START} and {END}. It has no {missing[0]}.")
        self.pad, self.start, self.end = ids.values()

    def source_ids(self, text):
        """The ids of a text, with those that the tokenizer itself puts around it."""
        ids = self._tokenizer.encode(text).ids
        if not 1 <= len(ids) <= self.decoder.source_length:
            most = self.decoder.source_length
            raise ValueError(f"A text must have 1 to {most} pieces. Received: {len(ids)} of {text!r}. Shorten it.")
        return ids

    def translate(self, text):
        """The likeliest translation, piece by piece."""
        ids = self.decoder.decode(self.source_ids(text), self.start, self.end, self.pad, self.decoder.most)
        return self.text_of(ids)

    def text_of(self, ids):
        """The text of ids, without what is not text."""
        return self._tokenizer.decode([number for number in ids if number not in (self.pad, self.start, self.end)])


def _softmax(values):
    shares = np.exp(values - values.max())
    return shares / shares.sum()


def _are_shares(outputs, scale):
    """Whether outputs are probabilities already: none below 0, the sum of each row 1."""
    most = SUM_ERROR + (0.0 if scale is None else SUM_STEPS * scale * outputs.shape[-1])
    return bool((outputs >= 0).all() and (np.abs(outputs.astype(np.float64).sum(-1) - 1) <= most).all())
