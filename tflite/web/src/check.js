// "Check this bundle": the contract in words, and as the line that the command-line runners print.

import { button, h, msText } from "./dom.js";
import { runContract } from "./contract.js";

const REPEAT = 50;

export function checkPanel(session) {
  const verdict = h("p", { class: "verdict", role: "status" }, "Not checked yet.");
  const line = h("pre", { id: "line", tabindex: "0", "aria-label": "The result as JSON", hidden: true });
  const check = button("Check this bundle", async () => {
    check.disabled = true;
    verdict.textContent = "Running all golden samples\u2026";
    try {
      await runAndShow(session, REPEAT, verdict, line);
    } catch (error) {
      verdict.textContent = "Not checked: it could not be run.";
      session.fail(error);
    } finally {
      check.disabled = false;
    }
  });
  const element = h(
    "section",
    { class: "panel check", "aria-labelledby": "check-title" },
    h("h2", { id: "check-title" }, "Does it compute here what was trained?"),
    h("p", { class: "note" }, "Runs the samples of the bundle and compares with the trained model\u2019s answers."),
    check,
    verdict,
    line,
  );
  return { element, run: (repeat) => runAndShow(session, repeat, verdict, line) };
}

async function runAndShow({ bundle, model, runtimeVersion }, repeat, verdict, line) {
  const result = await runContract(bundle, model, runtimeVersion, repeat);
  verdict.textContent = inWords(result.line, bundle.manifest.signatures);
  verdict.dataset.ok = result.line.ok;
  line.textContent = JSON.stringify(result.line);
  line.hidden = false;
  return result;
}

function inWords(line, signatures) {
  const samples = signatures.reduce((total, signature) => total + signature.golden_samples, 0);
  const error = errorText(line);
  const time = `One invocation takes ${msText(line.latency_ms_p50)}.`;
  if (line.ok) return `Yes: ${samples} samples within the tolerance, ${error}. ${time}`;
  return `No: the outputs differ by more than the tolerance, ${error}. ${time}`;
}

function errorText(line) {
  if (line.max_error_lsb !== null) return `off by ${line.max_error_lsb.toFixed(2)} steps of the integer grid at most`;
  if (line.max_error !== null) return `off by ${line.max_error.toExponential(1)} at most`;
  return "with outputs that are no numbers";
}
