// The page: a list of bundles, ways to open others, and the view of the one that is open.

import { openBundle } from "./bundle.js";
import { checkPanel } from "./check.js";
import { CANNOT_RUN, EQUAL, NOT_EQUAL } from "./contract.js";
import { breathe, bytesText, h, isPlainClick, msText } from "./dom.js";
import { CannotRun, sentence } from "./errors.js";
import { homeView } from "./home.js";
import { kindOf } from "./kinds.js";
import { registerWorker, whenControlled } from "./offline.js";
import { percentile } from "./numbers.js";
import { fromDrop, fromFiles, fromUrl } from "./sources.js";
import { imagesView } from "./view_images.js";
import { numbersView } from "./view_numbers.js";
import { streamerView, windowView } from "./view_series.js";
import { translatorView } from "./view_translator.js";

const VIEWS = {
  images: imagesView,
  sound: numbersView,
  streamer: streamerView,
  window: windowView,
  translator: translatorView,
  numbers: numbersView,
};
const RECENT = 50;
const MOST_REPEATS = 100000;

const root = document.documentElement;
const main = document.querySelector("main");
const back = document.querySelector("#back");
const alertBox = document.querySelector("#alert");
let open = null;
// Counts what the user asked for: a bundle that was still loading when they went elsewhere is not shown.
let visits = 0;

// For tests and scripts: what was computed last, and the outputs of the last check by the path of their golden values.
const exposed = (globalThis.kerasNotes = { last: null, outputs: null });

const isRun = () => new URLSearchParams(location.search).has("run");

function fail(error) {
  alertBox.textContent = sentence(error);
  alertBox.hidden = false;
  if (!(error instanceof CannotRun)) console.warn(error);
}

function clearAlert() {
  alertBox.hidden = true;
  alertBox.textContent = "";
}

/** Closes what is open and shows something else. */
function show(...children) {
  open?.dispose();
  open = null;
  clearAlert();
  back.hidden = false;
  main.replaceChildren(...children);
  scrollTo(0, 0);
}

async function showHome() {
  const visit = visits;
  const elements = await homeView(openPath, (files) => openPicked(() => fromFiles(files)));
  if (visit !== visits) return;
  show(...elements);
  back.hidden = true;
  document.title = "keras_notes";
}

function openPath(path) {
  history.pushState(null, "", `?bundle=${encodeURIComponent(path)}`);
  route();
}

async function openPicked(sourceOf) {
  clearAlert();
  try {
    const source = await sourceOf();
    if (await mount(source, performance.now())) history.pushState(null, "", "?picked");
  } catch (error) {
    if (open === null) await showHome();
    fail(error);
  }
}

/** Reads, loads and runs a first sample; then shows what the bundle is for. Null if the user has left meanwhile. */
async function mount(source, start) {
  const visit = (visits += 1);
  show(h("p", { class: "loading", role: "status" }, "Reading the bundle\u2026"));
  await whenControlled();
  const bundle = await openBundle(source);
  if (visit !== visits) return null;
  show(h("p", { class: "loading", role: "status" }, "Loading the runtime (10 MB, once) and the model\u2026"));
  const runtime = await import("./runtime.js");
  const model = await runtime.compile(bundle);
  const runtimeVersion = `litert.js ${runtime.VERSION} (${runtime.buildName()})`;
  await firstPrediction(bundle, model, start);
  const session = sessionOf(bundle, model, runtimeVersion);
  const check = checkPanel(session);
  const view = await VIEWS[session.kind.kind]?.(session);
  if (visit !== visits) {
    view?.dispose();
    model.delete();
    return null;
  }
  show(header(session, view?.hint), ...(view ? [h("section", { class: "panel" }, view.element)] : []), check.element);
  document.title = `${bundle.manifest.name} \u2013 keras_notes`;
  open = {
    check,
    dispose() {
      session.isOpen = false;
      view?.dispose();
      model.delete();
    },
  };
  root.dataset.ready = session.kind.kind;
  return open;
}

async function firstPrediction(bundle, model, start) {
  const [signature] = bundle.manifest.signatures;
  const inputs = signature.inputs.map((tensor) => [
    tensor.name,
    bundle.goldenSample(tensor, signature.golden_samples, 0),
  ]);
  await model.run(signature.name, Object.fromEntries(inputs));
  root.dataset.firstPredictionMs = (performance.now() - start).toFixed(0);
}

function sessionOf(bundle, model, runtimeVersion) {
  const latency = h("span", { class: "latency" }, "\u2013");
  let recent = [];
  const report = (ms, last) => {
    if (!session.isOpen) return;
    recent = [...recent.slice(1 - RECENT), ms];
    latency.textContent = msText(percentile(recent, 50));
    exposed.last = last;
  };
  // What still runs when the bundle is closed fails, and concerns nobody.
  const failOpen = (error) => session.isOpen && fail(error);
  const kind = kindOf(bundle.manifest);
  const session = { bundle, model, runtimeVersion, kind, latency, report, fail: failOpen, isOpen: true };
  return session;
}

function header({ bundle, latency, runtimeVersion }, hint) {
  const { name, recipe, preprocessing } = bundle.manifest;
  const fact = (term, value, isPlain) =>
    h("div", {}, h("dt", { class: isPlain ? "visually-hidden" : "" }, term), h("dd", {}, value));
  const facts = [
    fact("format", recipe, true),
    fact("size", bytesText(bundle.model.length), true),
    fact("a run takes", latency),
  ];
  return h(
    "header",
    {},
    h("h1", {}, name),
    h("p", { class: "lead" }, hint ?? "This page can check it, and no more."),
    h("dl", { class: "facts", title: [preprocessing, runtimeVersion].filter(Boolean).join(" ") }, ...facts),
  );
}

function goHome(event) {
  if (!isPlainClick(event)) return;
  event.preventDefault();
  history.pushState(null, "", "./");
  route();
}

/** Shows what the address says. */
async function route(start = performance.now()) {
  const parameters = new URLSearchParams(location.search);
  delete root.dataset.ready;
  visits += 1;
  try {
    if (!parameters.has("bundle")) return await showHome();
    const opened = await mount(fromUrl(parameters.get("bundle")), start);
    if (opened && parameters.has("run")) await runFromAddress(opened, parameters);
  } catch (error) {
    if (parameters.has("run")) return giveUp(error);
    show();
    fail(error);
  }
}

/** ?bundle=URL&run[&repeat=N]: the runner that a script drives; see ../run.py. */
async function runFromAddress(opened, parameters) {
  const repeat = Number(parameters.get("repeat") ?? 100);
  if (!Number.isInteger(repeat) || repeat < 1 || repeat > MOST_REPEATS) {
    throw new CannotRun(`repeat must be in [1, ${MOST_REPEATS}]. Received: ${parameters.get("repeat")}.`);
  }
  await breathe();
  const { line, outputs } = await opened.check.run(repeat);
  exposed.outputs = outputs;
  root.dataset.exitCode = line.ok ? EQUAL : NOT_EQUAL;
}

function giveUp(error) {
  show(h("p", {}, "Cannot run."));
  fail(error);
  root.dataset.exitCode = CANNOT_RUN;
}

function listenForDrops() {
  addEventListener("dragover", (event) => {
    event.preventDefault();
    root.classList.add("dragging");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) root.classList.remove("dragging");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    root.classList.remove("dragging");
    const transfer = event.dataTransfer;
    openPicked(() => fromDrop(transfer));
  });
}

addEventListener("unhandledrejection", (event) => {
  event.preventDefault();
  (isRun() ? giveUp : fail)(event.reason);
});
addEventListener("error", (event) => (isRun() ? giveUp : fail)(event.error ?? event.message));
addEventListener("popstate", () => route());
listenForDrops();
for (const link of document.querySelectorAll("nav a")) link.addEventListener("click", goHome);
// A script that measures wants neither caches nor a second start.
if (!isRun()) registerWorker();
route(0);
